-- JSON arrays of numbers, by explicit casts.
\set SHOW_CONTEXT never
SELECT '[1, 2.5, -3e2]'::jsonb::vector, '[1,2]'::jsonb::vector(2), CAST('[1]'::jsonb AS vector);
SELECT '[1,2.5,-300]'::vector::jsonb, '[1e6,0.1,1e-5]'::vector::jsonb, pg_typeof('[1]'::vector::jsonb);
-- a document's field
SELECT ('{"id": 7, "embedding": [0.25, 0.5]}'::jsonb -> 'embedding')::vector <-> '[0.25,0.5]';
SELECT jsonb_build_object('embedding', '[0.25,0.5]'::vector::jsonb);
-- numbers are read as in the text form: rounded once, underflowing to zero
SELECT '[1.000000059604644775390626]'::jsonb::vector = '[1.000000059604644775390626]' AS rounded_once;
SELECT '[1e-46,16777217,3.4028235e38]'::jsonb::vector;
-- and come back unchanged; JSON's numbers have no negative zero
SELECT count(*) AS lost
FROM (SELECT ('[' || (i * pi() * 10 ^ (i % 70 - 35)) || ']')::vector AS v FROM generate_series(1, 1000) i) t
WHERE vector_send(v) <> vector_send(v::jsonb::vector);
SELECT '[-0,-1e-45]'::vector::jsonb::vector, vector_dims(array_fill(0.1, ARRAY[16000])::vector::jsonb::vector);
-- a table's column, stored in its different ways
CREATE TEMP TABLE documents (d jsonb);
INSERT INTO documents SELECT to_jsonb(array_fill(0.1, ARRAY[n])) FROM unnest(ARRAY[1, 5, 100, 2000]) n;
SELECT vector_dims(d::vector), d::vector::jsonb = d AS same FROM documents ORDER BY 1;
SELECT NULL::jsonb::vector, NULL::vector::jsonb;
-- what is no array of numbers
SELECT '5'::jsonb::vector;
\echo :SQLSTATE
SELECT '-5'::jsonb::vector;
\echo :SQLSTATE
SELECT '"[1,2]"'::jsonb::vector;
\echo :SQLSTATE
SELECT 'null'::jsonb::vector;
\echo :SQLSTATE
SELECT 'true'::jsonb::vector;
\echo :SQLSTATE
SELECT '{"0": 1}'::jsonb::vector;
\echo :SQLSTATE
SELECT '[1, null]'::jsonb::vector;
\echo :SQLSTATE
SELECT '["1"]'::jsonb::vector;
\echo :SQLSTATE
SELECT '["NaN"]'::jsonb::vector;
\echo :SQLSTATE
SELECT '[1, false]'::jsonb::vector;
\echo :SQLSTATE
SELECT '[[1, 2]]'::jsonb::vector;
\echo :SQLSTATE
SELECT '[{}]'::jsonb::vector;
\echo :SQLSTATE
-- what is no vector
SELECT '[]'::jsonb::vector;
\echo :SQLSTATE
SELECT '[1, 4e38]'::jsonb::vector;
\echo :SQLSTATE
SELECT '[1, 2]'::jsonb::vector(3);
\echo :SQLSTATE
SELECT to_jsonb(array_fill(0, ARRAY[16001]))::vector;
\echo :SQLSTATE
-- only explicitly: no assignment, no implicit cast
CREATE TEMP TABLE from_json (v vector, d jsonb);
INSERT INTO from_json (v) VALUES ('[1]'::jsonb);
\echo :SQLSTATE
INSERT INTO from_json (d) VALUES ('[1]'::vector);
\echo :SQLSTATE
SELECT '[1]'::vector <-> '[1]'::jsonb;
\echo :SQLSTATE
-- JSON functions show a vector as text, as with pgvector
SELECT to_jsonb('[1,2]'::vector), row_to_json(t) FROM (SELECT '[1,2]'::vector AS v) t;
