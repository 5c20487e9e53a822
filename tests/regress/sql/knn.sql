-- The knn family on a handful of rows, whose nearest are plain to see.
CREATE TABLE tracks (id bigint PRIMARY KEY, title text, genre text, year integer, embedding vector(2));
INSERT INTO tracks
    SELECT i, 'track ' || i, (ARRAY['rock', 'jazz', 'folk'])[i % 3 + 1], 1990 + i % 20, ARRAY[i, 0]::vector
    FROM generate_series(1, 200) i;
CREATE INDEX ON tracks (genre);
CREATE INDEX tracks_faiss ON tracks USING faiss (embedding) WITH (factory = 'Flat');
ANALYZE tracks;

-- filter
SELECT * FROM knn('tracks', '[100.25, 0]', 4, filter => 'genre = ''rock''');
SELECT * FROM knn('tracks', '[100.25, 0]', 3, filter => 'genre = ''jazz'' AND year < 1995 -- early ones');
SELECT * FROM knn('tracks', '[100.25, 0]', 3, filter => format('title LIKE %L', '%7'));
SELECT * FROM knn('tracks', '[100.25, 0]', filter => 'genre = ''polka''');
SELECT * FROM knn('tracks', '[100.25, 0]', filter => 'genre');
SELECT * FROM knn('tracks', '[100.25, 0]', filter => 'gender = ''rock''');
SELECT * FROM knn('tracks', '[100.25, 0]', filter => 'true) OR (true');
SELECT * FROM knn('tracks', '[100.25, 0]', filter => 'true; DROP TABLE tracks');
SELECT * FROM knn('tracks', '[100.25, 0]', filter => 'true, true');
SELECT * FROM knn('tracks', '[100.25, 0]', filter => 'true LIMIT 1');
SELECT * FROM knn('tracks', '[100.25, 0]', filter => 'id = $2');
SELECT * FROM knn('tracks', '[100.25, 0]', filter => 'count(*) > 1');
SELECT * FROM knn('tracks', '[100.25, 0]', filter => '');

-- knn_like
SELECT * FROM knn_like('tracks', 100, 2) ORDER BY distance, id;
SELECT * FROM knn_like('tracks', 100, 2, filter => 'genre = ''folk''');
SELECT * FROM knn_like('tracks', 1000);

-- knn_within
SELECT * FROM knn_within('tracks', '[100, 0]', 1) ORDER BY distance, id;
SELECT * FROM knn_within('tracks', '[100, 0]', 5, 2, filter => 'genre = ''folk''');
SELECT * FROM knn_within('tracks', '[100, 0]', 'NaN');
SELECT * FROM knn_within('tracks', '[100, 0]', 1, 0);

-- knn_rows
SELECT (item).title, (item).year, distance FROM knn_rows(NULL::tracks, '[100.25, 0]', 2);
SELECT (item).* FROM knn_rows(NULL::tracks, '[100.25, 0]', 1, filter => 'year = 1991');
SELECT * FROM knn_rows(1, '[100.25, 0]');
SELECT * FROM knn_rows(NULL::tracks, '[100.25, 0]', index => 'tracks_pkey');

DROP TABLE tracks;
