-- How vectors lie on disk: 8 bytes and 4 per dimension, uncompressed, out of line when large.
\set SHOW_CONTEXT never

SELECT typlen, typalign, typstorage, typcategory, typispreferred, typdelim, typarray::regtype,
       typmodout FROM pg_type WHERE oid = 'vector'::regtype;
SELECT pg_column_size('[1,2,3]'::vector), pg_column_size(array_fill(1, ARRAY[1536])::vector),
       pg_column_size(array_fill(1, ARRAY[16000])::vector);

CREATE TEMP TABLE stored (id integer, v vector);
-- short varlena header, plain, out of line
INSERT INTO stored SELECT d, (SELECT array_agg(i % 100) FROM generate_series(1, d) i)::vector
FROM unnest(ARRAY[1, 29, 30, 31, 400, 500, 600, 16000]) d;
SELECT id, pg_column_size(v), vector_dims(v), v = (SELECT array_agg(i % 100) FROM generate_series(1, id) i)::vector AS same
FROM stored ORDER BY id;
SELECT a.id, inner_product(a.v, b.v), a.v <-> b.v, (a.v + b.v) <-> (b.v + a.v) FROM stored a JOIN stored b USING (id) ORDER BY id;
ALTER TABLE stored ALTER v SET STORAGE plain;
ALTER TABLE stored ALTER v SET STORAGE main;
ALTER TABLE stored ALTER v SET STORAGE extended;
UPDATE stored SET v = v * array_fill(1, ARRAY[vector_dims(v)])::vector;
-- compressed now
SELECT id, pg_column_size(v) < 8 + 4 * id AS smaller, v = (SELECT array_agg(i % 100) FROM generate_series(1, id) i)::vector AS same
FROM stored WHERE id > 600;

-- values in other places: records, arrays, domains, defaults, prepared statements
SELECT ROW('[1,2]'::vector), ARRAY['[1,2]', '[3]']::vector[], (ARRAY['[1,2]', '[3]']::vector[])[2];
CREATE DOMAIN unit_vector AS vector(2) CHECK (abs(vector_norm(VALUE) - 1) < 1e-6);
SELECT '[0.6,0.8]'::unit_vector;
SELECT '[1,1]'::unit_vector;
\echo :SQLSTATE
DROP DOMAIN unit_vector;
PREPARE nearest(vector) AS SELECT id FROM stored WHERE id = 1 ORDER BY v <-> $1;
EXECUTE nearest('[1]');
SELECT json_build_object('v', '[1,2]'::vector), to_jsonb('[1,2]'::vector);

-- what does not fit into a quarter of a page goes out of line
CREATE TABLE apart (v vector);
INSERT INTO apart VALUES (array_fill(1, ARRAY[480])::vector);
SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'apart'::regclass;
INSERT INTO apart VALUES (array_fill(1, ARRAY[520])::vector);
SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'apart'::regclass;
DROP TABLE apart;
