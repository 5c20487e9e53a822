-- avg and sum.
\set SHOW_CONTEXT never

SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2,3]'::vector, '[3,5,7]']) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2,3]'::vector, '[3,5,7]', NULL]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[]::vector[]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[NULL::vector]) v;
-- avg is summed as float8, sum as float4
SELECT avg(v) FROM unnest(ARRAY['[3e38]'::vector, '[3e38]']) v;
SELECT sum(v) FROM unnest(ARRAY['[3e38]'::vector, '[3e38]']) v;
\echo :SQLSTATE
SELECT avg(v) FROM unnest(ARRAY['[1,2,3]'::vector, '[3,5]']) v;
\echo :SQLSTATE
SELECT sum(v) FROM unnest(ARRAY['[1,2,3]'::vector, '[3,5]']) v;
\echo :SQLSTATE

CREATE TABLE averaged AS
SELECT i % 3 AS g, sin(i)::real AS x, (cos(i) * 1e6)::real AS y FROM generate_series(1, 3000) i;
ALTER TABLE averaged ADD v vector(2);
UPDATE averaged SET v = ARRAY[x, y];
-- avg agrees with avg(real), group by group, to the last digit
SELECT g, avg(v) = ('[' || avg(x) || ',' || avg(y) || ']')::vector AS equal FROM averaged GROUP BY g ORDER BY g;
-- and in parallel
ALTER TABLE averaged SET (parallel_workers = 2);
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT avg(v), sum(v) FROM averaged;
SELECT avg(v) <-> ('[' || avg(x) || ',' || avg(y) || ']')::vector < 1e-6 AS equal, vector_dims(sum(v)) FROM averaged;
DROP TABLE averaged;

-- the state: number of rows, then sums
SELECT vector_accum('{0}', '[1,2]'), vector_accum('{1,1,2}', '[1,2]');
SELECT vector_combine('{0}', '{0}');
\echo :SQLSTATE
SELECT vector_combine('{1,1,2}', '{0}'), vector_combine('{0}', '{1,1,2}'), vector_combine('{2,1,2}', '{3,1,2}');
-- a state of no rows has no part, whatever its sums
SELECT vector_combine('{0,5}', '{1,2}'), vector_combine('{3,4}', '{0,1,2}'), vector_combine('{0,5,6}', '{0,7}');
SELECT vector_combine('{1}', '{1,2}');
\echo :SQLSTATE
SELECT vector_combine('{1,2}', '{1}');
\echo :SQLSTATE
SELECT vector_avg('{2,2,4}'), vector_avg('{0}'), vector_avg('{0,1}');
-- what is no state
SELECT vector_accum('{}', '[1]');
\echo :SQLSTATE
SELECT vector_accum('{{0,1}}', '[1]');
\echo :SQLSTATE
SELECT vector_combine('{NULL}', '{0}');
\echo :SQLSTATE
SELECT vector_combine('{0}', '{}');
\echo :SQLSTATE
SELECT vector_combine('{{0,1}}', '{0}');
\echo :SQLSTATE
SELECT vector_combine('{0,1}', '{{0,1}}');
\echo :SQLSTATE
SELECT vector_combine('{0}', '{NULL,1}');
\echo :SQLSTATE
SELECT vector_accum('{NULL}', '[1]');
\echo :SQLSTATE
SELECT vector_avg('{NULL,1}');
\echo :SQLSTATE
SELECT vector_avg('{{1,1}}');
\echo :SQLSTATE
-- a bitmap of nulls is one too many, even where it marks none
SELECT vector_avg(('{2,2,4,NULL}'::double precision[])[1:3]);
\echo :SQLSTATE
SELECT vector_avg('{}');
\echo :SQLSTATE
SELECT vector_avg('{1}');
\echo :SQLSTATE
SELECT vector_accum('{1,1,2}', '[1]');
\echo :SQLSTATE
SELECT vector_combine('{1,1,2}', '{1,1}');
\echo :SQLSTATE
SELECT vector_accum('{1,1e308}', '[1]'), vector_combine('{1,1e308}', '{1,1e308}');
\echo :SQLSTATE
SELECT vector_avg('{1,1e39}');
\echo :SQLSTATE
SELECT vector_avg('{NaN,1}');
\echo :SQLSTATE
SELECT vector_avg(array_fill(1::double precision, ARRAY[16002]));
\echo :SQLSTATE
SELECT vector_combine('{0}', array_fill(1::double precision, ARRAY[16002]));
\echo :SQLSTATE
