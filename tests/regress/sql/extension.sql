-- The extension's objects find one another in whatever schema they are.
\set SHOW_CONTEXT never
SELECT extname, extrelocatable FROM pg_extension WHERE extname = 'vekter';
CREATE SCHEMA elsewhere;
ALTER EXTENSION vekter SET SCHEMA elsewhere;
SELECT '[1,2]'::elsewhere.vector(2) OPERATOR(elsewhere.<->) '[4,6]', ARRAY[1,2]::elsewhere.vector::real[];
SELECT elsewhere.avg(v), elsewhere.sum(v) FROM unnest(ARRAY['[1,2]'::elsewhere.vector, '[3,4]']) v;
CREATE TABLE elsewhere.moved (v elsewhere.vector(2) UNIQUE);
INSERT INTO elsewhere.moved VALUES ('[1,2]'), (ARRAY[0,1]);
SELECT v FROM elsewhere.moved ORDER BY v;
SELECT '[1]'::vector;
\echo :SQLSTATE
ALTER EXTENSION vekter SET SCHEMA public;
SELECT v FROM elsewhere.moved ORDER BY v <-> '[1,2]';
DROP TABLE elsewhere.moved;
DROP SCHEMA elsewhere;
