-- What pgvector does not cast: arrays of smallint and bigint, as drivers send lists of integers; json, explicitly.
\set SHOW_CONTEXT never
SELECT ARRAY[1,-2,32767]::smallint[]::vector, ARRAY[1,-2,9223372036854775807]::bigint[]::vector;
SELECT '[0:1]={5,6}'::smallint[]::vector(2), '{16777217}'::bigint[]::vector, NULL::smallint[]::vector;
-- a column takes them; an operator takes only what is cast
CREATE TEMP TABLE assigned (v vector(2));
INSERT INTO assigned VALUES (ARRAY[1,2]::smallint[]), (ARRAY[3,4]::bigint[]);
PREPARE put (smallint[]) AS INSERT INTO assigned VALUES ($1);
EXECUTE put ('{5,6}');
SELECT * FROM assigned ORDER BY v;
SELECT v <-> ARRAY[1,2]::smallint[]::vector AS distance FROM assigned ORDER BY 1 LIMIT 1;
SELECT ARRAY[1]::smallint[] = ARRAY[1]::smallint[], ARRAY[1]::bigint[] || ARRAY[2]::bigint[];
SELECT '[1]'::vector <-> ARRAY[1]::smallint[];
\echo :SQLSTATE
-- refused
INSERT INTO assigned VALUES (ARRAY[1]::smallint[]);
\echo :SQLSTATE
SELECT '{}'::bigint[]::vector;
\echo :SQLSTATE
SELECT '{1,NULL}'::smallint[]::vector;
\echo :SQLSTATE
SELECT '{{1,2}}'::bigint[]::vector;
\echo :SQLSTATE
SELECT array_fill(0::smallint, ARRAY[16001])::vector;
\echo :SQLSTATE
-- json
SELECT ' [1, 2.5, -3e2]'::json::vector, '[1,2]'::json::vector(2), '[-0,1e-46]'::json::vector;
SELECT '[1,2.5,-300]'::vector::json, pg_typeof('[1]'::vector::json), '[1e6,0.1,1e-5,-0]'::vector::json;
SELECT ('{"id": 7, "embedding": [0.25, 0.5]}'::json -> 'embedding')::vector <-> '[0.25,0.5]';
SELECT json_build_object('embedding', '[0.25,0.5]'::vector::json), NULL::json::vector, NULL::vector::json;
SELECT count(*) AS lost
FROM (SELECT ('[' || (i * pi() * 10 ^ (i % 70 - 35)) || ']')::vector AS v FROM generate_series(1, 1000) i) t
WHERE vector_send(v) <> vector_send(v::json::vector);
SELECT '5'::json::vector;
\echo :SQLSTATE
SELECT ' {"0": 1}'::json::vector;
\echo :SQLSTATE
SELECT '"[1,2]"'::json::vector;
\echo :SQLSTATE
SELECT 'null'::json::vector;
\echo :SQLSTATE
SELECT '[1, null]'::json::vector;
\echo :SQLSTATE
SELECT '[[1, 2]]'::json::vector;
\echo :SQLSTATE
SELECT '[]'::json::vector;
\echo :SQLSTATE
SELECT '[1, 4e38]'::json::vector;
\echo :SQLSTATE
SELECT '[1, 2]'::json::vector(3);
\echo :SQLSTATE
INSERT INTO assigned VALUES ('[1,2]'::json);
\echo :SQLSTATE
-- avg() over no rows is NULL, also where several processes find none
CREATE TABLE scanned (v vector(2));
INSERT INTO scanned SELECT ARRAY[i, i]::vector FROM generate_series(1, 1000) i;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT avg(v) FROM scanned WHERE vector_dims(v) <> 2;
SELECT avg(v) FROM scanned WHERE vector_dims(v) <> 2;
SELECT avg(v) FROM scanned;
DROP TABLE scanned;
