-- Search parameters: the index's option, settings, an argument of knn(); the nearer wins, and what does not fit is an
-- error that lists what does.
\set SHOW_CONTEXT never
CREATE TABLE points (id int PRIMARY KEY, embedding vector(4));
INSERT INTO points SELECT i, ARRAY[i % 7, i % 11, i % 13, i % 17]::real[]::vector(4) FROM generate_series(1, 1000) i;

-- options that cannot be
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'IVF16,Flat', search = 'efSearch=64');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'IVF16,Flat', search = 'nlist=64');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'IVF16,Flat', search = 'nprobe');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'IVF16,Flat', search = 'nprobe=0');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'IVF16,Flat', search = 'nprobe=1.5');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'IVF16,Flat', search = 'nprobe=1,nprobe=2');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'Flat', search = 'nprobe=1');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'PQ2', search = 'k_factor=0.5');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'RaBitQ', search = 'qb=9');
-- bits of codes are compared under Euclidean distance only, which the build knows
CREATE INDEX ON points USING faiss (embedding vector_ip_ops) WITH (factory = 'PQ2', search = 'ht=8');

-- options that can be, and be changed without a rebuild
CREATE INDEX built ON points USING faiss (embedding) WITH (factory = 'IVF16,Flat', search = 'nprobe=1,max_codes=10');
SELECT pg_relation_filenode('built') AS before \gset
SELECT count(*) FROM knn('points', '[1, 1, 1, 1]', 1000);
ALTER INDEX built SET (search = 'nprobe=16');
ALTER INDEX built SET (search = 'efSearch=64');
ALTER INDEX built SET (factory = 'HNSW16');
ALTER INDEX built SET (factory = 'HNSW16', search = 'efSearch=64');
SELECT count(*) FROM knn('points', '[1, 1, 1, 1]', 1000);
ALTER INDEX built RESET (search);
ALTER INDEX built SET (factory = 'IVF16,Flat');
SELECT pg_relation_filenode('built') = :before AS unchanged;

-- the argument must fit, and settings hold for many indexes
SELECT count(*) FROM knn('points', '[1, 1, 1, 1]', 5, search => 'nprobe=16 max_codes=0');
SELECT count(*) FROM knn('built', '[1, 1, 1, 1]', 5, search => '');
SELECT count(*) FROM knn('built', '[1, 1, 1, 1]', 5, NULL);
SELECT count(*) FROM knn(NULL, '[1, 1, 1, 1]', 5, 'nprobe=1');
SELECT count(*) FROM knn('built', '[1, 1, 1, 1]', 5, search => 'efSearch=64');
SELECT count(*) FROM knn('built', '[1, 1, 1, 1]', 5, search => 'colour=red');
SELECT count(*) FROM knn('built', '[1, 1, 1, 1]', 5, search => 'nprobe=99999999999');
SELECT count(*) FROM knn('built', '[1, 1, 1, 1]', 5, search => repeat('x', 1000) || '=1');
SET vekter.search = 'efSearch=64,nprobe=3';
SET vekter.ef_search = 10;
SELECT count(*) FROM knn('built', '[1, 1, 1, 1]', 5);
SET vekter.search = 'colour=red';
SET vekter.search = 'nprobe=none';
SHOW vekter.search;
RESET vekter.search;
RESET vekter.ef_search;

-- what auto may choose, and a partitioned index
CREATE INDEX chosen ON points USING faiss (embedding vector_cosine_ops) WITH (search = 'efSearch=64,nprobe=16');
SELECT count(*) FROM knn('chosen', '[1, 1, 1, 1]', 5, search => 'k_factor_rf=8');
SELECT count(*) FROM knn('chosen', '[1, 1, 1, 1]', 5, search => 'qb=8');
CREATE TABLE parted (id int, embedding vector(4)) PARTITION BY RANGE (id);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES FROM (0) TO (600);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (600) TO (2000);
INSERT INTO parted SELECT * FROM points;
CREATE INDEX of_parts ON parted USING faiss (embedding) INCLUDE (id) WITH (factory = 'IVF4,Flat');
SELECT count(*) FROM knn('of_parts', '[1, 1, 1, 1]', 5, search => 'nprobe=2');
SELECT count(*) FROM knn('of_parts', '[1, 1, 1, 1]', 5, search => 'efSearch=2');
DROP TABLE points, parted;
