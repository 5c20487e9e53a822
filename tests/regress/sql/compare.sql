-- The order of vectors: elements first, then dimensions.
\set SHOW_CONTEXT never

SELECT '[1,2,3]'::vector < '[1,2,3]', '[1,2,3]'::vector < '[1,2]', '[1,2]'::vector < '[1,2,3]', '[1,9]'::vector < '[2]';
SELECT '[1,2,3]'::vector <= '[1,2,3]', '[1,2,3]'::vector <= '[1,2]';
SELECT '[1,2,3]'::vector = '[1,2,3]', '[1,2,3]'::vector = '[1,2]', '[0]'::vector = '[-0]';
SELECT '[1,2,3]'::vector <> '[1,2,3]', '[1,2,3]'::vector <> '[1,2]', '[0]'::vector <> '[-0]';
SELECT '[1,2,3]'::vector >= '[1,2,3]', '[1,2,3]'::vector >= '[1,2,4]';
SELECT '[1,2,3]'::vector > '[1,2,3]', '[1,2,3]'::vector > '[1,2]';
SELECT vector_cmp('[1,2,3]', '[1,2,3]'), vector_cmp('[1,2,3]', '[1,2]'), vector_cmp('[1]', '[1,2]'), vector_cmp('[2]', '[-9,9]'), vector_cmp('[-2]', '[1]');

CREATE TEMP TABLE ordered (v vector);
INSERT INTO ordered VALUES ('[2]'), ('[1,5]'), (NULL), ('[1]'), ('[-1,7]'), ('[1]'), ('[0]');
SELECT v FROM ordered ORDER BY v;
SELECT v FROM ordered ORDER BY v DESC NULLS LAST LIMIT 2;
SELECT count(DISTINCT v) FROM ordered;
SELECT v, count(*) FROM ordered WHERE v > '[0]' GROUP BY v ORDER BY v;

-- the default btree operator class serves equality, ranges and uniqueness
CREATE INDEX ordered_v ON ordered (v);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT v FROM ordered WHERE v = '[1]';
SELECT v FROM ordered WHERE v = '[1]';
SELECT v FROM ordered WHERE v >= '[1]' AND v < '[2]' ORDER BY v;
RESET enable_seqscan;
CREATE TEMP TABLE keyed (v vector(2) PRIMARY KEY);
INSERT INTO keyed VALUES ('[1,2]'), ('[1,3]');
INSERT INTO keyed VALUES ('[1,2]');
\echo :SQLSTATE
-- there is no hash operator class, as in pgvector
CREATE INDEX ON ordered USING hash (v);
\echo :SQLSTATE
