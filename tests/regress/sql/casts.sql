-- Casts between vector and arrays: from arrays on assignment, to real[] implicitly.
\set SHOW_CONTEXT never

SELECT ARRAY[1,2,-3]::vector;
SELECT ARRAY[1.5,2.25]::real[]::vector;
SELECT ARRAY[1.5,2.25]::double precision[]::vector;
SELECT ARRAY[1.5,2.25]::numeric[]::vector;
SELECT '{1,2,3}'::real[]::vector, '[2:4]={1,2,3}'::real[]::vector;
-- integers and doubles are rounded to float4
SELECT ARRAY[16777217,2147483647]::vector;
SELECT ARRAY[1 + 2 ^ (-24) + 2 ^ (-50)]::double precision[]::vector = ('[' || (1 + 2 ^ (-23)) || ']')::vector AS rounded_to_nearest;
SELECT ARRAY[1e-46]::double precision[]::vector;

SELECT '[1,2.5]'::vector::real[];
SELECT array_dims('[1,2.5]'::vector::real[]), pg_typeof('[1]'::vector::real[]);
SELECT vector_to_float4('[1,2.5]', -1, true);
SELECT '[0.1,3.4028235e38,-1e-45]'::vector::real[]::vector;

-- assignment: a column takes an array
CREATE TEMP TABLE assigned (v vector(2), a real[]);
INSERT INTO assigned (v) VALUES (ARRAY[1,2]), ('{3,4}'::real[]), ('{5,6}'::double precision[]), ('{7,8}'::numeric[]);
UPDATE assigned SET a = v;
SELECT * FROM assigned ORDER BY assigned.v;

-- but an operator does not: an implicit cast would make plain arrays ambiguous
SELECT ARRAY[1] = ARRAY[1], ARRAY[1.5] || ARRAY[2.5];
SELECT '[1]'::vector <-> ARRAY[1]::real[];
\echo :SQLSTATE
SELECT '[1]'::vector::double precision[];
SELECT '[1]'::vector::text::vector, '[1]'::varchar::vector;

SELECT castsource::regtype, casttarget::regtype, castcontext, castmethod FROM pg_cast
WHERE 'vector'::regtype IN (castsource, casttarget)
  AND castsource::regtype::text !~ 'halfvec|sparsevec|json|smallint|bigint' AND casttarget::regtype::text !~ 'halfvec|sparsevec|json'
ORDER BY castsource::regtype::text COLLATE "C", casttarget::regtype::text COLLATE "C";

-- refused
SELECT '{}'::real[]::vector;
\echo :SQLSTATE
SELECT '{NULL}'::real[]::vector;
\echo :SQLSTATE
SELECT '{1,NULL}'::numeric[]::vector;
\echo :SQLSTATE
SELECT '{{1,2},{3,4}}'::real[]::vector;
\echo :SQLSTATE
SELECT '{{1}}'::integer[]::vector;
\echo :SQLSTATE
SELECT '{NaN}'::real[]::vector;
\echo :SQLSTATE
SELECT '{1,Infinity}'::real[]::vector;
\echo :SQLSTATE
SELECT '{-Infinity}'::double precision[]::vector;
\echo :SQLSTATE
SELECT '{NaN}'::numeric[]::vector;
\echo :SQLSTATE
-- beyond float4: a double becomes infinite, a numeric fails in its own cast
SELECT '{4e38}'::double precision[]::vector;
\echo :SQLSTATE
SELECT '{4e38}'::numeric[]::vector;
\echo :SQLSTATE
-- and so does a numeric too small for it
SELECT '{1e-46}'::numeric[]::vector;
\echo :SQLSTATE
SELECT array_fill(0, ARRAY[16001])::vector;
\echo :SQLSTATE
SELECT array_fill(0, ARRAY[16001])::vector(3);
\echo :SQLSTATE
SELECT ARRAY[1,2]::vector(3);
\echo :SQLSTATE
-- an array whose null bitmap marks no null
SELECT array_remove('{1,NULL,2}'::real[], NULL)::vector;
SELECT (('{1,2,NULL}'::integer[])[1:2])::vector;
