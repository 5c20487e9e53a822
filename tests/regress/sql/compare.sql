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
-- a btree key has to fit into a third of a page: about 670 dimensions
CREATE INDEX ordered_wide ON ordered ((v || array_fill(1, ARRAY[670])::vector)) WHERE v = '[2]';
CREATE INDEX ON ordered ((v || array_fill(1, ARRAY[680])::vector)) WHERE v = '[2]';
\echo :SQLSTATE
-- the functions behind the operators
SELECT vector_lt('[1]', '[2]'), vector_le('[2]', '[2]'), vector_eq('[1]', '[2]'), vector_ne('[1]', '[2]'),
       vector_ge('[1]', '[2]'), vector_gt('[1]', '[2]');
