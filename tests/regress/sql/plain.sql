-- What the plans of plain SQL look like, and what they return.
SET enable_seqscan = off;
SET enable_sort = off;
CREATE TABLE spots (id int PRIMARY KEY, kind text NOT NULL, place vector(2) NOT NULL, maybe vector(2));
INSERT INTO spots SELECT i, 'k' || i % 40, ARRAY[i, i % 7]::vector, CASE WHEN i % 2 = 0 THEN ARRAY[i, 0]::vector END
  FROM generate_series(1, 4000) i;
CREATE INDEX spots_kind ON spots (kind);
CREATE INDEX spots_place ON spots USING faiss (place) WITH (factory = 'Flat');
CREATE INDEX spots_maybe ON spots USING faiss (maybe) WITH (factory = 'Flat');
VACUUM ANALYZE spots;

-- Without a condition PostgreSQL's own scan.
EXPLAIN (COSTS OFF) SELECT id FROM spots ORDER BY place <-> '[50, 0]' LIMIT 3;
SELECT id FROM spots ORDER BY place <-> '[50, 0]' LIMIT 3;
-- With one, the node that knows it, and how the table's own index would answer it.
EXPLAIN (COSTS OFF) SELECT id FROM spots WHERE kind = 'k3' ORDER BY place <-> '[50, 0]' LIMIT 3;
SELECT id FROM spots WHERE kind = 'k3' ORDER BY place <-> '[50, 0]' LIMIT 3;
EXPLAIN (COSTS OFF, VERBOSE) SELECT p.id, place <-> '[50, 0]' FROM spots p WHERE kind = 'k3' ORDER BY 2 LIMIT 3;
-- Orders that follow the distance.
EXPLAIN (COSTS OFF) SELECT id, 1 - (place <-> '[50, 0]') AS similarity FROM spots
 WHERE 1 - (place <-> '[50, 0]') > -5 ORDER BY similarity DESC LIMIT 3;
SELECT id, 1 - (place <-> '[50, 0]') AS similarity FROM spots
 WHERE 1 - (place <-> '[50, 0]') > -5 ORDER BY similarity DESC LIMIT 3;
EXPLAIN (COSTS OFF) SELECT id FROM spots ORDER BY (place <-> '[50, 0]') * -1 DESC LIMIT 3;
EXPLAIN (COSTS OFF) SELECT id FROM spots ORDER BY l2_distance(place, '[50, 0]') LIMIT 3;
SELECT id FROM spots ORDER BY place <-> '[50, 3]', id DESC LIMIT 4;
-- A radius ends the scan.
SELECT id FROM spots WHERE place <-> '[50, 0]' < 2 ORDER BY place <-> '[50, 0]';
SELECT id FROM spots WHERE place <-> '[50, 0]' < NULL ORDER BY place <-> '[50, 0]';
-- NULLs come first in descending order, unless a condition keeps them out.
RESET enable_sort;
RESET enable_seqscan;
EXPLAIN (COSTS OFF) SELECT id FROM spots ORDER BY -(maybe <-> '[50, 0]') DESC LIMIT 3;
EXPLAIN (COSTS OFF) SELECT id FROM spots WHERE maybe IS NOT NULL ORDER BY -(maybe <-> '[50, 0]') DESC LIMIT 3;
SELECT id FROM spots WHERE maybe IS NOT NULL ORDER BY -(maybe <-> '[50, 0]') DESC LIMIT 3;
-- A sum keeps the index away.
EXPLAIN (COSTS OFF) SELECT id FROM spots ORDER BY (place <-> '[50, 0]') + 0 LIMIT 3;
-- A query without a vector has distances that are all NULL.
SELECT count(*) FROM (SELECT id FROM spots WHERE kind = 'k3' ORDER BY place <-> NULL LIMIT 7) s;
SELECT id FROM spots WHERE kind = 'k3' ORDER BY place <-> '[1, 2, 3]' LIMIT 3;
SELECT name, setting, enumvals FROM pg_settings WHERE name = 'vekter.iterative_scan';
SET vekter.iterative_scan = off;
