-- Models of different dimensions in one column: the cast is an error for the rows of the others, so it comes after the
-- predicate whatever plan is chosen.
\set SHOW_CONTEXT never
CREATE TABLE mixed (id int PRIMARY KEY, model text, v vector);
INSERT INTO mixed SELECT i, 'a', ARRAY[i, 0, 0]::vector FROM generate_series(1, 20) i;
INSERT INTO mixed SELECT i, 'b', ARRAY[i, 0]::vector FROM generate_series(21, 40) i;
INSERT INTO mixed VALUES (41, 'a', NULL), (42, NULL, '[1]');
CREATE INDEX of_a ON mixed USING faiss ((v::vector(3))) INCLUDE (id) WITH (factory = 'IVF2,SQ8') WHERE model = 'a';
CREATE INDEX of_b ON mixed USING faiss ((v::vector(2)) vector_cosine_ops) INCLUDE (id) WHERE model = 'b' AND id > 20;
CREATE FUNCTION pg_temp.ask() RETURNS TABLE (asked text, answer text) LANGUAGE plpgsql AS $$
DECLARE
    call text;
BEGIN
    FOREACH call IN ARRAY ARRAY[
        $q$ knn('of_a', '[5.25, 0, 0]', 2) $q$,
        $q$ knn('of_a', '[5.25, 0, 0]', 2, filter => 'id % 3 = 0') $q$,
        $q$ knn('of_a', '[5.25, 0, 0]', 2, filter => 'random() >= 0') $q$,
        $q$ knn('of_a', '[5.25, 0, 0]', 2, filter => 'id IN (SELECT 2 * id FROM mixed)') $q$,
        $q$ knn_like('of_a', 5, 2) $q$,
        $q$ knn_within('of_a', '[5.25, 0, 0]', 1) $q$,
        $q$ knn_within('of_a', '[5.25, 0, 0]', 9, 2, filter => 'id < 4') $q$,
        $q$ (SELECT (item).id, distance FROM knn_rows(NULL::mixed, '[5.25, 0, 0]', 2, 'of_a')) $q$,
        $q$ knn_batch('of_a', ARRAY['[5.25, 0, 0]', '[9.25, 0, 0]']::vector[], 1) $q$,
        $q$ knn_join('asked', 'id', 'at', 'of_a', 1) $q$,
        $q$ (SELECT vekter_recall('of_a', 3, 30)) $q$,
        $q$ (SELECT decoded, error < 1 FROM vekter_reconstruct('of_a', 1)) $q$,
        $q$ (SELECT decoded FROM vekter_reconstruct('of_a', 21)) $q$,
        $q$ (SELECT length(vekter_export('of_a')) > 100) $q$,
        $q$ vekter_check('of_a', true) $q$,
        $q$ (SELECT id FROM knn('of_b', '[5, 0]', 1, filter => 'id = 30')) $q$]
    LOOP
        asked := btrim(call);
        BEGIN
            EXECUTE 'SELECT string_agg(k::text, '' '') FROM ' || call || ' AS k' INTO answer;
        EXCEPTION WHEN OTHERS THEN
            answer := SQLERRM;
        END;
        RETURN NEXT;
    END LOOP;
END $$;
CREATE TABLE asked AS SELECT 7 AS id, '[5.25, 0, 0]'::vector AS at;
SELECT * FROM pg_temp.ask();
-- without the index
SET enable_indexscan = off;
CREATE TEMP TABLE answers AS SELECT * FROM pg_temp.ask();
-- in parallel, and with an index of the predicate's column
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT * FROM answers EXCEPT SELECT * FROM pg_temp.ask();
RESET ALL;
CREATE INDEX ON mixed (model);
SELECT * FROM answers EXCEPT SELECT * FROM pg_temp.ask();
-- one id for a row of each model
ALTER TABLE mixed DROP CONSTRAINT mixed_pkey;
INSERT INTO mixed VALUES (5, 'b', '[5, 5]');
SELECT id FROM knn_like('of_a', 5, 1);
SELECT decoded FROM vekter_reconstruct('of_a', 5);
-- under a policy
CREATE ROLE regress_reader;
GRANT SELECT ON mixed TO regress_reader;
ALTER TABLE mixed ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON mixed USING (id <> 6);
SET ROLE regress_reader;
SELECT id FROM knn('of_a', '[5.75, 0, 0]', 1);
SET enable_indexscan = off;
SELECT id FROM knn('of_a', '[5.75, 0, 0]', 1);
RESET ROLE;
DROP TABLE mixed, asked;
DROP ROLE regress_reader;
