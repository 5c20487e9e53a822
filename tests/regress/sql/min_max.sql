-- min and max: in the order of the comparison operators.
\set SHOW_CONTEXT never
SELECT min(v), max(v) FROM unnest('{"[2]","[1,5]",NULL,"[1]","[-1,7]","[1]"}'::vector[]) v;
SELECT min(v), max(v) FROM unnest(ARRAY[]::vector[]) v;
SELECT min(v), max(v) FROM unnest(ARRAY[NULL::vector]) v;
SELECT vector_smaller('[1]', '[1,2]'), vector_larger('[1]', '[1,2]'), vector_smaller('[2]', '[1,2]'), vector_larger('[2]', '[1,2]');
SELECT vector_smaller(NULL, '[1]'), vector_larger('[1]', NULL);
CREATE TABLE extremes (g integer, v vector);
INSERT INTO extremes SELECT i % 3, ARRAY[i * 7919 % 3001, i]::vector FROM generate_series(0, 3000) i;
INSERT INTO extremes VALUES (0, NULL), (0, array_fill(5000, ARRAY[16000])::vector), (1, array_fill(-1, ARRAY[600])::vector);
SELECT g, subvector(min(v), 1, 2) AS min, vector_dims(min(v)), subvector(max(v), 1, 2) AS max, vector_dims(max(v))
FROM extremes GROUP BY g ORDER BY g;
-- as windows
SELECT v, min(v) OVER w, max(v) OVER w FROM unnest('{"[2]","[1]","[3]"}'::vector[]) WITH ORDINALITY t (v, i)
WINDOW w AS (ORDER BY i ROWS 1 PRECEDING) ORDER BY i;
-- in parallel
ALTER TABLE extremes SET (parallel_workers = 2);
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT min(v), max(v) FROM extremes;
SELECT subvector(min(v), 1, 2), vector_dims(min(v)), subvector(max(v), 1, 2), vector_dims(max(v)) FROM extremes;
RESET max_parallel_workers_per_gather;
-- by an index
DELETE FROM extremes WHERE vector_dims(v) > 2;
CREATE INDEX extremes_v ON extremes (v);
SET enable_seqscan = off;
CREATE FUNCTION pg_temp.plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    RETURN plan;
END $$;
SELECT pg_temp.plan('SELECT max(v) FROM extremes') ~ '"Index Only Scan"' AS max, pg_temp.plan('SELECT min(v) FROM extremes') ~ '"Index Only Scan"' AS min;
SELECT min(v), max(v) FROM extremes;
RESET enable_seqscan;
DROP TABLE extremes;
