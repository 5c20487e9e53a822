-- vector(n): exactly one number, 1 to 16,000; it holds wherever a value enters the column.
\set SHOW_CONTEXT never

SELECT '[1,2,3]'::vector(3);
SELECT '[1,2,3]'::vector(2);
\echo :SQLSTATE
SELECT '[1,2,3]'::vector::vector(2);
\echo :SQLSTATE
SELECT '[1,2,3]'::vector(3)::vector(2);
\echo :SQLSTATE
SELECT ARRAY[1,2,3]::vector(3), ARRAY[1,2,3]::vector(2);
\echo :SQLSTATE
SELECT '[1,2,3]'::vector(3)::vector;

SELECT '[1]'::vector(0);
\echo :SQLSTATE
SELECT '[1]'::vector(-1);
\echo :SQLSTATE
SELECT '[1]'::vector(16001);
\echo :SQLSTATE
SELECT '[1]'::vector(1, 2);
\echo :SQLSTATE
SELECT '[1]'::vector('one');
\echo :SQLSTATE
SELECT '[1]'::vector('');
\echo :SQLSTATE
SELECT vector_typmod_in('{}');
\echo :SQLSTATE
SELECT vector_typmod_in('{{1},{2}}');
\echo :SQLSTATE
SELECT vector_typmod_in('{NULL}');
\echo :SQLSTATE

CREATE TEMP TABLE sized (v vector(3), w vector(16000), x vector);
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'sized'::regclass AND attnum > 0 ORDER BY attnum;

INSERT INTO sized (v) VALUES ('[1,2,3]'), (NULL);
INSERT INTO sized (v) VALUES ('[1,2]');
\echo :SQLSTATE
INSERT INTO sized (v) SELECT '[1,2]'::vector;
\echo :SQLSTATE
INSERT INTO sized (v) VALUES (ARRAY[1,2]);
\echo :SQLSTATE
UPDATE sized SET v = '[1,2,3,4]';
\echo :SQLSTATE
COPY sized (v) FROM STDIN;
[1,2,3,4]
\.
\echo :SQLSTATE
-- without a modifier, dimensions mix
INSERT INTO sized (x) VALUES ('[1]'), ('[1,2]');
SELECT v, x FROM sized ORDER BY sized.v, sized.x;
ALTER TABLE sized ALTER x TYPE vector(2);
\echo :SQLSTATE
DELETE FROM sized WHERE vector_dims(x) = 1;
ALTER TABLE sized ALTER x TYPE vector(2);
CREATE TEMP TABLE sized_arrays (a vector(2)[]);
INSERT INTO sized_arrays VALUES (ARRAY['[1,2]', '[3,4]']::vector[]);
INSERT INTO sized_arrays VALUES (ARRAY['[1,2]', '[3]']::vector[]);
\echo :SQLSTATE
SELECT * FROM sized_arrays;
