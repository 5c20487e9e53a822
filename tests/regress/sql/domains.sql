-- Columns of a domain over vector(n) have its dimensions.
\set SHOW_CONTEXT never
CREATE DOMAIN embedding AS vector(2);
CREATE DOMAIN unit_embedding AS embedding CHECK (vector_norm(VALUE) < 1000);
CREATE DOMAIN any_embedding AS vector;
CREATE TABLE points (id int PRIMARY KEY, e embedding, u unit_embedding NOT NULL, a any_embedding);
INSERT INTO points SELECT i, ARRAY[i, 0]::vector, ARRAY[0, i]::vector, ARRAY[i, i]::vector FROM generate_series(1, 100) i;
CREATE INDEX ON points USING faiss (e);
CREATE INDEX ON points USING faiss (u vector_cosine_ops);
SELECT vekter_create_index('points', 'id', 'u', metric => 'l1');
SELECT vekter_create_index('points', 'id', 'e', metric => 'IP');
SELECT dimensions, metric, rows_indexed FROM pg_index, vekter_index_stats(indexrelid) WHERE indrelid = 'points'::regclass AND NOT indisprimary
ORDER BY indexrelid;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM points ORDER BY e <-> '[3.25,0]' LIMIT 2;
SELECT id FROM points ORDER BY e <-> '[3.25,0]' LIMIT 2;
EXPLAIN (COSTS OFF) SELECT id FROM points ORDER BY u <+> '[0,3.25]' LIMIT 2;
SELECT id FROM points ORDER BY u <+> '[0,3.25]' LIMIT 2;
RESET enable_seqscan;
SELECT * FROM knn('points_e_idx', '[3.25,0]', 2);
SELECT * FROM knn('points_e_idx', '[3.25,0]', 2, filter => 'id > 50');
SELECT * FROM knn_like('points_u_idx1', 7, 2);
SELECT * FROM knn_within('points_e_idx', '[3.25,0]', 1);
SELECT (item).id, (item).u, distance FROM knn_rows(NULL::points, '[3.25,0]', 1, 'points_e_idx');
SELECT * FROM knn_batch('points_e_idx', ARRAY['[3.25,0]', '[5,0]']::vector[], 1);
SELECT count(*), sum(distance) FROM knn_join('points', 'id', 'e', 'points_e_idx', 1);
SELECT count(DISTINCT cluster) FROM vekter_kmeans('points', 'id', 'u', 3);
SELECT vekter_recall('points_e_idx', 2, 3);
SELECT decoded FROM vekter_reconstruct('points_e_idx', 3);
-- an expression
CREATE INDEX by_cast ON points USING faiss ((a::embedding));
SELECT dimensions FROM vekter_index_stats('by_cast');
-- rows that come later
INSERT INTO points VALUES (101, '[3,0.5]', '[1,1]', '[1,1]');
SELECT * FROM knn('points_e_idx', '[3.25,0]', 2);
-- what is refused says so
CREATE INDEX ON points USING faiss (a);
SELECT vekter_create_index('points', 'id', 'a');
SELECT * FROM knn('points_e_idx', '[3,0,0]', 2);
INSERT INTO points VALUES (102, '[3]', '[1,1]', '[1,1]');
DROP TABLE points;
DROP DOMAIN unit_embedding, embedding, any_embedding;
