-- Distances, inner products and norms.
\set SHOW_CONTEXT never

SELECT l2_distance('[0,0]'::vector, '[3,4]'), '[0,0]'::vector <-> '[3,4]';
SELECT vector_l2_squared_distance('[0,0]', '[3,4]');
SELECT inner_product('[1,2]'::vector, '[3,4]'), '[1,2]'::vector <#> '[3,4]', vector_negative_inner_product('[1,2]', '[3,4]');
SELECT l1_distance('[0,0]'::vector, '[3,-4]'), '[0,0]'::vector <+> '[3,-4]';
SELECT cosine_distance('[1,2]'::vector, '[2,4]'), '[1,2]'::vector <=> '[2,4]';
SELECT '[1,1]'::vector <=> '[1,1]', '[1,0]'::vector <=> '[0,2]', '[1,1]'::vector <=> '[-1,-1]';
SELECT vector_spherical_distance('[1,0]', '[1,0]'), vector_spherical_distance('[1,0]', '[0,1]'),
       vector_spherical_distance('[1,0]', '[-1,0]'), vector_spherical_distance('[2,0]', '[2,0]');
SELECT '[0]'::vector <#> '[1]';

-- cosine distance stays within 0 and 2, and is 0 between multiples
SELECT '[1,2,3]'::vector <=> '[1.1,2.2,3.3]' BETWEEN 0 AND 1e-6, '[0.1,0.2]'::vector <=> '[-0.1,-0.2]';
SELECT min(d) >= 0, max(d) <= 2 FROM (
    SELECT ('[' || sin(i) || ',' || cos(i) || ']')::vector <=> ('[' || sin(j) || ',' || cos(j) || ']')::vector AS d
    FROM generate_series(1, 50) i, generate_series(1, 50) j) t;

-- distances are summed as float4
SELECT '[3e38]'::vector <-> '[-3e38]', '[3e38]'::vector <+> '[-3e38]', inner_product('[3e38]'::vector, '[3e38]');
SELECT '[3e38]'::vector <=> '[3e38]', '[1e-30]'::vector <-> '[0]';
-- a zero vector has no direction
SELECT '[0,0]'::vector <=> '[1,1]', '[0,0]'::vector <=> '[0,0]';

-- norms are summed as float8
SELECT vector_norm('[3,4]'), vector_norm('[0]'), vector_norm('[3e37,4e37]'), vector_norm('[1e-30]');
SELECT vector_dims('[1,2,3]'::vector), vector_dims('[0]'::vector);

-- every length: the distance of a ramp to zero has a closed form, exact in float4
SELECT d, inner_product(ramp, ones) = d * (d + 1) / 2 AS ip, l1_distance(ramp, zeros) = d * (d + 1) / 2 AS l1,
       vector_l2_squared_distance(ones, zeros) = d AS l2, ones <=> ones AS cosine
FROM unnest(ARRAY[1, 7, 8, 31, 32, 33, 63, 64, 65, 100, 1536, 3000]) d,
     LATERAL (SELECT (SELECT array_agg(i) FROM generate_series(1, d) i)::vector AS ramp,
                     array_fill(1, ARRAY[d])::vector AS ones, array_fill(0, ARRAY[d])::vector AS zeros) v;

-- operands of different dimensions
SELECT '[1]'::vector <-> '[1,2]';
\echo :SQLSTATE
SELECT '[1,2]'::vector <#> '[1]';
\echo :SQLSTATE
SELECT '[1]'::vector <=> '[1,2]';
\echo :SQLSTATE
SELECT '[1]'::vector <+> '[1,2]';
\echo :SQLSTATE
SELECT l2_distance('[1]'::vector, '[1,2]');
\echo :SQLSTATE
SELECT inner_product('[1]'::vector, '[1,2]');
\echo :SQLSTATE
SELECT cosine_distance('[1]'::vector, '[1,2]');
\echo :SQLSTATE
SELECT l1_distance('[1]'::vector, '[1,2]');
\echo :SQLSTATE
SELECT vector_l2_squared_distance('[1]', '[1,2]');
\echo :SQLSTATE
SELECT vector_spherical_distance('[1]', '[1,2]');
\echo :SQLSTATE

-- null in, null out
SELECT NULL::vector <-> '[1]', '[1]'::vector <=> NULL, vector_norm(NULL), vector_dims(NULL::vector);
