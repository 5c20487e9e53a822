-- Many queries at once: knn_batch() over an array, knn_join() over a table.
\set SHOW_CONTEXT never
CREATE TABLE points (id int PRIMARY KEY, embedding vector(2));
INSERT INTO points SELECT i, ARRAY[i, 0]::real[]::vector(2) FROM generate_series(1, 100) i;
SELECT * FROM knn_batch('points', ARRAY['[1,1]']::vector[]);
CREATE INDEX built ON points USING faiss (embedding) WITH (factory = 'Flat');

-- by table or index, with k and search
SELECT query_no, id, round(distance::numeric, 3) FROM knn_batch('points', ARRAY['[7.2,0]', '[50.1,1]']::vector[], 2);
SELECT query_no, id FROM knn_batch('built', queries => ARRAY['[99.9,0]']::vector[], k => 1, search => '');
SELECT query_no, id FROM knn_batch('built', ARRAY['[99.9,0]']::vector[], 1, recall => 1);
SELECT query_no, count(*) FROM knn_batch('built', ARRAY['[1,0]', NULL, '[2,0]']::vector[]) GROUP BY query_no ORDER BY query_no;
-- nothing asked, nothing found
SELECT * FROM knn_batch('points', '{}');
SELECT * FROM knn_batch('points', '{NULL}');
SELECT * FROM knn_batch('points', NULL);
SELECT * FROM knn_batch(NULL, ARRAY['[1,1]']::vector[]);
SELECT * FROM knn_batch('points', ARRAY['[1,1]']::vector[], NULL);
-- what cannot be
SELECT * FROM knn_batch('points', ARRAY['[1,1]', '[1,1,1]']::vector[]);
SELECT * FROM knn_batch('points', ARRAY[ARRAY['[1,1]']]::vector[]);
SELECT * FROM knn_batch('points', ARRAY['[1,1]']::vector[], 0);
SELECT * FROM knn_batch('points', ARRAY['[1,1]']::vector[], 1, 'nprobe=1');
SET vekter.batch_threads = -1;
SET vekter.batch_threads = 2;
SELECT query_no, id FROM knn_batch('points', ARRAY['[7.2,0]']::vector[], 1);
RESET vekter.batch_threads;

-- joins
CREATE TABLE asked (id int, name text, at vector);
INSERT INTO asked VALUES (1, 'one', '[10.1,0]'), (2, 'two', '[20.4,0]'), (3, 'three', NULL), (NULL, 'none', '[30,0]');
SELECT j.left_id, j.id, round(j.distance::numeric, 3) FROM knn_join('asked', 'id', 'at', 'points', 2) j;
SELECT left_id, pg_typeof(left_id), id FROM knn_join('asked', 'name', 'at', 'points', 1, search => NULL, recall => 0.9, id_type => NULL::text);
SELECT left_id, pg_typeof(left_id), id FROM knn_join('points', 'id', 'embedding', index => 'built', k => 1) ORDER BY 1 LIMIT 2;
SELECT a.name, p.id FROM asked a CROSS JOIN LATERAL knn('points', a.at, 1) p ORDER BY a.name;
SELECT * FROM knn_join('asked', 'name', 'at', 'points');
SELECT * FROM knn_join('asked', 'nothing', 'at', 'points');
SELECT * FROM knn_join('asked', 'id', 'id', 'points');
SELECT * FROM knn_join('asked', 'id', 'at', 'points', -1);
SELECT * FROM knn_join('asked', 'id', 'at', 'points', recall => 0);
SELECT * FROM knn_join('asked', 'id', NULL, 'points');
CREATE TABLE keyed (key uuid, at vector);
SELECT * FROM knn_join('keyed', 'key', 'at', 'points');
INSERT INTO asked VALUES (4, 'four', '[1,2,3]');
SELECT * FROM knn_join('asked', 'id', 'at', 'points');
-- no argument leaves it open which function is meant
SELECT count(*) FROM knn_join('points', 'id', 'embedding', 'points', NULL);
SELECT count(*) FROM knn_join('points', 'id', 'embedding', 'points', 1::smallint, NULL);
SELECT count(*) FROM knn_join('points', 'id', 'embedding', 'points', 1, NULL, NULL);
SELECT * FROM vekter_join_progress();
DROP TABLE points, asked, keyed;
