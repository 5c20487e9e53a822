-- Planner statistics: null fraction, width, number of distinct values; no values of embeddings.
\set SHOW_CONTEXT never
CREATE TABLE measured (id integer, wide vector(300), middle vector(64), narrow vector(3), absent vector(3));
INSERT INTO measured
SELECT i, CASE WHEN i % 4 > 0 THEN array_fill(i, ARRAY[300])::vector END,
       CASE WHEN i % 5 > 0 THEN array_fill(i % 10, ARRAY[64])::vector END, ARRAY[i % 2, 0, i % 4]::vector
FROM generate_series(1, 400) i;
ANALYZE measured;
SELECT attname, null_frac, avg_width, n_distinct, most_common_vals IS NOT NULL AS values, histogram_bounds IS NOT NULL AS bounds,
       correlation IS NOT NULL AS correlation
FROM pg_stats WHERE tablename = 'measured' AND attname <> 'id' ORDER BY attname;
-- narrow values are kept, as of any type
SELECT most_common_vals, most_common_freqs FROM pg_stats WHERE tablename = 'measured' AND attname = 'narrow';
-- what the statistics hold stays small
SELECT pg_column_size(s.*) < 1000 AS small, staattnum FROM pg_statistic s
WHERE starelid = 'measured'::regclass AND staattnum > 1 ORDER BY staattnum;
-- the planner counts groups and equal rows by them
CREATE FUNCTION estimated_rows(query text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    RETURN plan -> 0 -> 'Plan' ->> 'Plan Rows';
END $$;
SELECT estimated_rows('SELECT middle FROM measured GROUP BY middle') AS groups,
       estimated_rows('SELECT * FROM measured WHERE middle = array_fill(3, ARRAY[64])::vector') AS equal,
       estimated_rows('SELECT * FROM measured WHERE narrow = ''[1,0,3]''') AS common,
       estimated_rows('SELECT * FROM measured WHERE wide IS NULL') AS nulls;
-- out of line, where the width is that of the pointer, as for any type; and as an index expression
CREATE TABLE measured_apart (v vector);
INSERT INTO measured_apart SELECT array_fill(i, ARRAY[1000])::vector FROM generate_series(1, 100) i;
CREATE INDEX measured_half ON measured_apart ((subvector(v, 1, 2)));
ANALYZE measured_apart;
SELECT tablename, attname, null_frac, n_distinct, avg_width FROM pg_stats WHERE tablename LIKE 'measured\_%' ORDER BY 1;
CREATE STATISTICS measured_parts ON (v + v), (subvector(v, 1, 2)) FROM measured_apart;
ANALYZE measured_apart;
SELECT expr, null_frac, n_distinct, histogram_bounds IS NOT NULL AS bounds FROM pg_stats_ext_exprs WHERE tablename = 'measured_apart' ORDER BY expr;
-- a statistics target of 0 wants none
ALTER TABLE measured_apart ALTER v SET STATISTICS 0;
DELETE FROM pg_statistic WHERE starelid = 'measured_apart'::regclass;
ANALYZE measured_apart;
SELECT count(*) FROM pg_stats WHERE tablename = 'measured_apart';
-- tables without rows, or without values
CREATE TABLE measured_never (v vector(3));
ANALYZE measured_never;
INSERT INTO measured_never VALUES (NULL), (NULL);
ANALYZE measured_never;
SELECT null_frac, avg_width, n_distinct FROM pg_stats WHERE tablename = 'measured_never';
DROP FUNCTION estimated_rows;
DROP TABLE measured, measured_apart, measured_never;
