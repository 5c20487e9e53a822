-- Hashing: what is equal hashes alike, so that hash joins, hash aggregation, hash indexes and hash partitions answer as
-- sorting does.
\set SHOW_CONTEXT never
SELECT vector_hash('[1,2,3]') = vector_hash('[1,2,3]') AS same, vector_hash('[1,2,3]') = vector_hash('[1,2]') AS shorter,
       vector_hash('[1,2]') = vector_hash('[2,1]') AS turned, vector_hash('[1]') = vector_hash('[1,0]') AS padded;
-- 0 and -0 are equal
SELECT '[0,1,-0]'::vector = '[-0,1,0]' AS equal, vector_hash('[0,1,-0]') = vector_hash('[-0,1,0]') AS same,
       vector_hash_extended('[0,1,-0]', 42) = vector_hash_extended('[-0,1,0]', 42) AS same_with_seed;
-- with seed 0, the low half of the extended hash is the plain one; another seed gives another hash
SELECT count(*) AS wrong FROM generate_series(1, 100) i, LATERAL (SELECT ARRAY[i, -i, i / 7]::vector) t (v)
WHERE (vector_hash_extended(v, 0) & 4294967295) <> (vector_hash(v)::bigint & 4294967295)
   OR vector_hash_extended(v, 1) = vector_hash_extended(v, 0);
-- a value hashes alike however it is stored
CREATE TEMP TABLE hashed (id integer, v vector);
INSERT INTO hashed SELECT d, array_fill(0.1, ARRAY[d])::vector FROM unnest(ARRAY[1, 30, 31, 600, 16000]) d;
SELECT id, vector_hash(v) = vector_hash(array_fill(0.1, ARRAY[id])::vector) AS same FROM hashed ORDER BY id;
-- 1,000 rows, 100 values and both zeros
CREATE TABLE doubled (id integer, v vector(2));
INSERT INTO doubled SELECT i, ('[' || CASE WHEN i % 200 < 100 THEN '-0' ELSE '0' END || ',' || i % 100 || ']')::vector
FROM generate_series(1, 1000) i;
INSERT INTO doubled VALUES (0, NULL);
ANALYZE doubled;
SET enable_sort = off;
SET enable_mergejoin = off;
SET enable_nestloop = off;
EXPLAIN (COSTS OFF) SELECT v, count(*) FROM doubled GROUP BY v;
SELECT count(*), min(n), max(n) FROM (SELECT count(*) AS n FROM doubled GROUP BY v) t;
SELECT count(*) FROM (SELECT DISTINCT v FROM doubled) t;
EXPLAIN (COSTS OFF) SELECT count(*) FROM doubled a JOIN doubled b USING (v);
SELECT count(*) FROM doubled a JOIN doubled b USING (v);
SELECT count(*) FROM doubled WHERE v IN (SELECT v FROM doubled WHERE id <= 3);
SELECT v FROM (VALUES ('[1]'::vector), ('[-0]'), (NULL)) a (v) INTERSECT SELECT v FROM (VALUES ('[0]'::vector), (NULL)) b (v) ORDER BY v;
RESET enable_sort;
SET enable_mergejoin = on;
SET enable_hashjoin = off;
-- a merge join gives the same
EXPLAIN (COSTS OFF) SELECT count(*) FROM doubled a JOIN doubled b USING (v);
SELECT count(*) FROM doubled a JOIN doubled b USING (v);
RESET enable_hashjoin;
RESET enable_mergejoin;
RESET enable_nestloop;
-- a hash index, of any dimensions: only the hash is stored
CREATE INDEX doubled_v ON doubled USING hash (v);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM doubled WHERE v = '[0,7]';
SELECT count(*) FROM doubled WHERE v = '[0,7]';
RESET enable_seqscan;
DROP TABLE doubled;
CREATE INDEX ON hashed USING hash (v);
-- a partitioned table
CREATE TABLE spread (v vector) PARTITION BY HASH (v);
CREATE TABLE spread_0 PARTITION OF spread FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE spread_1 PARTITION OF spread FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO spread SELECT ARRAY[i, -i]::vector FROM generate_series(1, 1000) i;
INSERT INTO spread VALUES ('[0]'), ('[-0]');
SELECT count(*) > 400 AS half FROM spread_0 UNION ALL SELECT count(*) > 400 FROM spread_1;
SELECT count(DISTINCT tableoid) AS partitions FROM spread WHERE v = '[0]';
EXPLAIN (COSTS OFF) SELECT * FROM spread WHERE v = '[3,-3]';
SELECT * FROM spread WHERE v = '[3,-3]';
-- where a partition lies on disk depends on these numbers: they must never change
SELECT vector_hash('[1,2,3]'), vector_hash('[0]'), vector_hash_extended('[1,2,3]', 8816678312871386365);
SELECT satisfies_hash_partition('spread'::regclass, 2, 0, '[1,2,3]'::vector), satisfies_hash_partition('spread'::regclass, 2, 0, '[0]'::vector);
DROP TABLE spread;
SELECT amvalidate(c.oid), amname FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod
WHERE opcintype = 'vector'::regtype AND opcname = 'vector_ops' ORDER BY amname;
