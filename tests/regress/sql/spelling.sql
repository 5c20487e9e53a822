-- Factory strings and search parameters in any case: SQL folds what is not quoted, and some programs do not quote.
\set SHOW_CONTEXT never
CREATE TABLE points (id int PRIMARY KEY, embedding vector(8));
INSERT INTO points SELECT i, ARRAY[i % 3, i % 5, i % 7, i % 11, i % 13, i % 17, i % 19, i]::vector FROM generate_series(1, 600) i;
CREATE INDEX built ON points USING faiss (embedding) WITH (factory = HNSW16);
SELECT factory FROM vekter_index_stats('built');
SELECT pg_get_indexdef('built'::regclass);
ALTER INDEX built SET (search = 'efsearch=200');
SELECT count(*) FROM knn('built', '[1,1,1,1,1,1,1,1]', 5, search => 'EFSEARCH=64');
SET vekter.search = 'NProbe=3,efSEARCH=40';
SELECT count(*) FROM knn('built', '[1,1,1,1,1,1,1,1]', 5);
RESET vekter.search;
REINDEX INDEX built;
SELECT factory FROM vekter_index_stats('built');
DROP INDEX built;
CREATE FUNCTION built_as(factory text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE built text;
BEGIN
    EXECUTE format('CREATE INDEX spelt ON points USING faiss (embedding) WITH (factory = %L)', factory);
    SELECT s.factory INTO built FROM vekter_index_stats('spelt') s;
    DROP INDEX spelt;
    RETURN built;
END $$;
SELECT f, built_as(f) FROM unnest(ARRAY['ivf8,flat', 'IVF8,FLAT', 'pq4x4fs', 'opq4,ivf8,pq4x4', 'ivf8,sqfp16', 'sq8,rflat',
    'ivf8,pq4x4,refine(sq8)', 'rq4x4_nqint8', 'pca4,flat', 'rr,flat', 'l2norm,flat', 'itq,lsh', 'lshrt', 'ivf8,rabitq',
    'ivf8_hnsw8,sqbf16', 'AUTO']) f;
SELECT vekter_create_index('points', 'id', 'embedding', 'ivf8,flat', 'COSINE', 'made');
SELECT factory, metric FROM vekter_index_stats('made');
-- an index that is asked for search parameters at its making knows its family
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'ivf8,flat', search = 'efsearch=3');
-- what is not understood, and what may be meant
CREATE INDEX ON points USING faiss (embedding) WITH (factory = hsnw32);
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'ivf8,flta');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'IVF8, Flat');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'pq4x4fsr');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = ivf8);
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'PQ0');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'PQ3');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'HNSW1000000000');
CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'quick');
DROP TABLE points;
DROP FUNCTION built_as;
