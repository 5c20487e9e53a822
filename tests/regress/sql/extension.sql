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
-- where a type of that name is, the error says what to do
DROP EXTENSION vekter;
CREATE TYPE vector AS ENUM ('x', 'y', 'z');
CREATE EXTENSION vekter;
\echo :SQLSTATE
CREATE SCHEMA "Our Vectors";
CREATE TABLE "Our Vectors".vector ();
CREATE EXTENSION vekter SCHEMA "Our Vectors";
\echo :SQLSTATE
DROP SCHEMA "Our Vectors" CASCADE;
-- and what it says works
CREATE SCHEMA vekter; CREATE EXTENSION vekter SCHEMA vekter;
SELECT '[1,2]'::vekter.vector OPERATOR(vekter.<->) '[4,6]', 'y'::vector;
DROP EXTENSION vekter;
DROP SCHEMA vekter;
DROP TYPE vector;
CREATE EXTENSION vekter;
-- no relation comes into the schema: tools that manage its relations would have to be told of it
SELECT d.objid::regclass FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
WHERE e.extname = 'vekter' AND d.classid = 'pg_class'::regclass;
-- nothing is left behind by DROP EXTENSION
DROP EXTENSION vekter;
SELECT proname FROM pg_proc WHERE probin ~ 'vekter' UNION ALL SELECT typname FROM pg_type WHERE typname ~ 'vector' AND typnamespace = 'public'::regnamespace
UNION ALL SELECT opcname FROM pg_opclass WHERE opcname ~ '^vector' UNION ALL SELECT amname FROM pg_am WHERE amname = 'faiss';
CREATE EXTENSION vekter;
