-- Elements by subscript: the first is 1, and where there is none the result is NULL, as with arrays.
\set SHOW_CONTEXT never
SELECT ('[1.5,2,-3]'::vector)[1], ('[1.5,2,-3]'::vector)[3], pg_typeof(('[1]'::vector)[1]);
SELECT ('[1,2,3]'::vector)[0], ('[1,2,3]'::vector)[4], ('[1,2,3]'::vector)[-1], ('[1,2,3]'::vector)[2147483647],
       ('[1,2,3]'::vector)[-2147483648];
SELECT ('[1,2,3]'::vector)[NULL], (NULL::vector)[1], ('[1,2,3]'::vector)[NULL::integer];
-- of columns, parameters, function results, domains, and as arrays do
CREATE TABLE parts (id integer, v vector, a real[]);
INSERT INTO parts SELECT d, array_agg(i * 0.5)::vector, array_agg(i * 0.5)::real[]
FROM unnest(ARRAY[1, 29, 30, 31, 600, 16000]) d, generate_series(1, d) i GROUP BY d;
SELECT id, v[1], v[id], v[id + 1], v[id / 2 + 1] = a[id / 2 + 1] AS as_array, (v + v)[id] AS doubled
FROM parts p ORDER BY id;
SELECT count(*) AS differ FROM parts, generate_series(-1, 20000, 7) i WHERE v[i] IS DISTINCT FROM a[i];
SELECT id FROM parts WHERE v[30] = 15 ORDER BY v[600] NULLS FIRST, id;
SELECT sum(v[1]) FROM parts;
CREATE INDEX parts_second ON parts ((v[2]));
CREATE VIEW seconds AS SELECT id, v[2] AS second, (v + v)[id] AS doubled FROM parts;
SELECT pg_get_viewdef('seconds'::regclass) ~ 'v\[2\] AS second' AS shown_as_written, pg_get_indexdef('parts_second'::regclass);
SELECT second FROM seconds WHERE id = 30;
PREPARE element(vector, integer) AS SELECT $1[$2];
EXECUTE element('[4,5]', 2);
CREATE DOMAIN pair AS vector(2);
SELECT ('[4,5]'::pair)[2];
DROP DOMAIN pair;
DO $$
DECLARE
    v vector := '[4,5]';
BEGIN
    RAISE NOTICE '%', v[1] + v[2];
END $$;
-- the subscript is an integer, by the rules of assignment
SELECT ('[4,5]'::vector)[2.4], ('[4,5]'::vector)['2'], ('[4,5]'::vector)[2::bigint];
SELECT ('[4,5]'::vector)[3000000000];
\echo :SQLSTATE
SELECT ('[4,5]'::vector)['x'];
\echo :SQLSTATE
SELECT ('[4,5]'::vector)[true];
\echo :SQLSTATE
SELECT ('[4,5]'::vector)[DATE '2000-01-01'];
\echo :SQLSTATE
SELECT v[nothing] FROM parts;
\echo :SQLSTATE
SELECT v[1/0] FROM parts;
\echo :SQLSTATE
-- one subscript only
SELECT v[1][1] FROM parts;
\echo :SQLSTATE
-- no slices, no assignment
SELECT v[1:2] FROM parts;
\echo :SQLSTATE
SELECT v[:2] FROM parts;
\echo :SQLSTATE
SELECT v[:] FROM parts;
\echo :SQLSTATE
UPDATE parts SET v[1] = 5;
\echo :SQLSTATE
INSERT INTO parts (v[1]) VALUES (5);
\echo :SQLSTATE
DO $$
DECLARE
    v vector := '[4,5]';
BEGIN
    v[1] := 2;
END $$;
\echo :SQLSTATE
-- an array of vectors has two
SELECT (ARRAY['[1,2]', '[3]']::vector[])[1], ((ARRAY['[1,2]', '[3]']::vector[])[1])[2];
DROP TABLE parts CASCADE;
