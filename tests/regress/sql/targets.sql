-- Which index a table stands for, and what has none.
\set SHOW_CONTEXT never
CREATE TABLE songs (id bigint PRIMARY KEY, kind text, embedding vector(2));
INSERT INTO songs SELECT i, 'k' || i % 2, ARRAY[i, 0]::vector FROM generate_series(1, 100) i;

-- An index that is not valid does not count beside one that is: a rebuild, or what a cancelled one left.
CREATE INDEX built ON songs USING faiss (embedding);
CREATE INDEX built_ccnew ON songs USING faiss (embedding);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'built_ccnew'::regclass;
SELECT * FROM knn('songs', '[50.25, 0]', 2);
SELECT (item).id, distance FROM knn_rows(NULL::songs, '[50.25, 0]', 2);
SELECT query_no, id FROM knn_batch('songs', ARRAY['[1, 0]', '[7, 0]']::vector[], 1);
SELECT left_id, id FROM knn_join('songs', 'id', 'embedding', 'songs', 1) WHERE left_id < 3;
SELECT rows_indexed FROM vekter_index_stats('songs');
SELECT vekter_recall('songs', 5, 5);
SELECT vekter_compact('songs');
SELECT * FROM vekter_check('songs');
SELECT * FROM knn('built_ccnew', '[50.25, 0]', 2);
-- nor one that takes no rows yet, or no more
UPDATE pg_index SET indisvalid = true, indisready = false WHERE indexrelid = 'built_ccnew'::regclass;
SELECT * FROM knn('songs', '[50.25, 0]', 1);
UPDATE pg_index SET indisready = true, indislive = false WHERE indexrelid = 'built_ccnew'::regclass;
SELECT * FROM knn('songs', '[50.25, 0]', 1);
UPDATE pg_index SET indislive = true, indisvalid = false WHERE indexrelid IN ('built'::regclass, 'built_ccnew'::regclass);
SELECT * FROM knn('songs', '[50.25, 0]', 1);
UPDATE pg_index SET indisvalid = true WHERE indexrelid IN ('built'::regclass, 'built_ccnew'::regclass);

-- Of several that answer the same, the newest answers.
SELECT * FROM knn('songs', '[50.25, 0]', 1);
INSERT INTO songs VALUES (101, 'k1', '[200, 0]');
CREATE INDEX third ON songs USING faiss (embedding) INCLUDE (id) WITH (factory = 'HNSW32');
SELECT factory FROM vekter_index_stats('songs');
SELECT id FROM knn('songs', '[199, 0]', 1);
DROP INDEX built_ccnew, third;
-- Those that answer another question are told apart by name: other rows, another distance, another id, another vector.
CREATE INDEX partial ON songs USING faiss (embedding) WHERE kind = 'k1';
SELECT * FROM knn('songs', '[50.25, 0]', 1);
DROP INDEX partial;
CREATE INDEX by_cosine ON songs USING faiss (embedding vector_cosine_ops);
SELECT * FROM knn('songs', '[50.25, 0]', 1);
DROP INDEX by_cosine;
ALTER TABLE songs ADD position integer;
CREATE INDEX by_position ON songs USING faiss (embedding) INCLUDE (position);
SELECT * FROM knn('songs', '[50.25, 0]', 1);
DROP INDEX by_position;
CREATE INDEX first_value ON songs USING faiss ((subvector(embedding, 1, 1)::vector(1)));
SELECT * FROM knn('songs', '[50.25, 0]', 1);
CREATE INDEX first_value_anew ON songs USING faiss ((subvector(embedding, 1, 1)::vector(1)));
DROP INDEX built;
SELECT id FROM knn('songs', '[50.25]', 1);
DROP TABLE songs;

-- A partitioned table.
CREATE TABLE parted (id bigint PRIMARY KEY, embedding vector(2)) PARTITION BY RANGE (id);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES FROM (0) TO (50);
INSERT INTO parted SELECT i, ARRAY[i, 0]::vector FROM generate_series(1, 40) i;
CREATE INDEX whole ON parted USING faiss (embedding);
CREATE INDEX unfinished ON ONLY parted USING faiss (embedding);
SELECT * FROM knn('parted', '[9.25, 0]', 1);
CREATE INDEX second ON parted USING faiss (embedding);
SELECT * FROM knn('parted', '[9.25, 0]', 1);
SELECT id FROM knn('parted_0', '[9.25, 0]', 1);
DROP TABLE parted;

-- What has no index, and what to name instead.
CREATE TABLE plain (id bigint PRIMARY KEY, title text, embedding vector(2));
CREATE VIEW a_view AS SELECT * FROM plain;
CREATE FOREIGN DATA WRAPPER regress_wrapper;
CREATE SERVER regress_server FOREIGN DATA WRAPPER regress_wrapper;
CREATE FOREIGN TABLE a_foreign_table (id bigint, embedding vector(2)) SERVER regress_server;
CREATE SEQUENCE a_sequence;
CREATE TYPE a_type AS (id bigint, embedding vector(2));
SELECT * FROM knn('a_view', '[1, 2]');
SELECT * FROM knn_rows(NULL::a_view, '[1, 2]');
SELECT vekter_create_index('a_view', 'id', 'embedding');
SELECT * FROM vekter_index_stats('a_foreign_table');
SELECT * FROM knn_batch('a_sequence', ARRAY['[1, 2]']::vector[]);
SELECT * FROM knn_rows(NULL::a_type, '[1, 2]');
SELECT vekter_create_index('plain_pkey', 'id', 'embedding');
SELECT * FROM knn('plain_pkey', '[1, 2]');
SELECT * FROM knn('plain', '[1, 2]');
DO $$ BEGIN
    PERFORM knn(reltoastrelid, '[1, 2]') FROM pg_class WHERE oid = 'plain'::regclass;
EXCEPTION WHEN wrong_object_type THEN
    RAISE NOTICE '%', regexp_replace(SQLERRM, '\d+', 'N');
END $$;
DROP FOREIGN DATA WRAPPER regress_wrapper CASCADE;
DROP SEQUENCE a_sequence;
DROP TYPE a_type;

-- A column of another type of that name.
CREATE SCHEMA "Other";
CREATE TYPE "Other".vector;
CREATE FUNCTION "Other".vector_in(cstring, oid, integer) RETURNS "Other".vector
    AS '$libdir/vekter', 'vector_in_wrapper' LANGUAGE C IMMUTABLE STRICT;
-- PostgreSQL 18 shows the place in its notices of a shell type.
SET client_min_messages = warning;
CREATE FUNCTION "Other".vector_out("Other".vector) RETURNS cstring
    AS '$libdir/vekter', 'vector_out_wrapper' LANGUAGE C IMMUTABLE STRICT;
CREATE FUNCTION "Other".vector_send("Other".vector) RETURNS bytea
    AS '$libdir/vekter', 'vector_send_wrapper' LANGUAGE C IMMUTABLE STRICT;
RESET client_min_messages;
CREATE FUNCTION "Other".vector_typmod_in(cstring[]) RETURNS integer
    AS '$libdir/vekter', 'vector_typmod_in_wrapper' LANGUAGE C IMMUTABLE STRICT;
CREATE TYPE "Other".vector (INPUT = "Other".vector_in, OUTPUT = "Other".vector_out, SEND = "Other".vector_send,
    TYPMOD_IN = "Other".vector_typmod_in, STORAGE = external);
ALTER TABLE plain ADD "their Vector" "Other".vector(2) DEFAULT '[3, 4]', ADD loose "Other".vector;
INSERT INTO plain (id) VALUES (1);
SELECT vekter_create_index('plain', 'id', 'their Vector');
SET search_path = "Other", public;
SELECT * FROM vekter_kmeans('plain', 'id', 'loose', 2);
RESET search_path;
SELECT vekter_create_index('plain', 'id', 'title');
SELECT vekter_create_index('plain', 'title', 'embedding');
-- as the hint says
CREATE CAST ("Other".vector AS public.vector) WITHOUT FUNCTION AS ASSIGNMENT;
ALTER TABLE public.plain ALTER COLUMN "their Vector" TYPE public.vector(2);
SELECT vekter_create_index('plain', 'id', 'their Vector');
SELECT * FROM knn('plain', '[3, 4]');
ALTER TABLE plain DROP loose;
DROP VIEW a_view;
DROP CAST ("Other".vector AS public.vector);
DROP TYPE "Other".vector CASCADE;
CREATE TYPE "Other".vector AS ENUM ('x');
ALTER TABLE plain ADD word "Other".vector;
SELECT vekter_create_index('plain', 'id', 'word');
DROP TABLE plain;
DROP SCHEMA "Other" CASCADE;
