-- The demo's data: made up, from fixed seeds, shaped like real embeddings. Twelve genres, twenty scenes in each; a
-- track lies near its scene's centre, a scene near its genre's. Titles take their words from scene and genre, so that
-- one sees with bare eyes whether neighbours belong together. The workings live in the schema `demo`.

CREATE EXTENSION vekter;

CREATE TABLE tracks (
    id bigint PRIMARY KEY,
    title text NOT NULL,
    genre text NOT NULL,
    embedding vector(128)
);

CREATE SCHEMA demo;

CREATE TABLE demo.genres (id int PRIMARY KEY, name text, nouns text[]);
INSERT INTO demo.genres VALUES
    (0, 'rock', '{Highway,Amplifier,Rebel,Thunder,Garage,Leather,Outlaw,Gasoline}'),
    (1, 'techno', '{Warehouse,Circuit,Voltage,Terminal,Strobe,Machine,Signal,Concrete}'),
    (2, 'hip hop', '{Corner,Cypher,Borough,Subway,Turntable,Hustle,Skyline,Verse}'),
    (3, 'jazz', '{Boulevard,Saxophone,Cellar,Standard,Cigarette,Quartet,Avenue,Waltz}'),
    (4, 'folk', '{River,Hollow,Lantern,Orchard,Harvest,Sparrow,Mountain,Ferry}'),
    (5, 'classical', '{Nocturne,Prelude,Sonata,Elegy,Étude,Serenade,Adagio,Fantasia}'),
    (6, 'metal', '{Abyss,Iron,Ashes,Throne,Serpent,Requiem,Crypt,Hammer}'),
    (7, 'soul', '{Heart,Promise,Tenderness,Sunday,Honey,Devotion,Choir,Letter}'),
    (8, 'reggae', '{Island,Harbour,Sunshine,Roots,Kingston,Rhythm,Mango,Tide}'),
    (9, 'ambient', '{Drift,Horizon,Glacier,Tundra,Vapour,Orbit,Stillness,Aurora}'),
    (10, 'country', '{Porch,Whiskey,Prairie,Pickup,Saddle,Tennessee,Railroad,Barn}'),
    (11, 'bossa nova', '{Ipanema,Verandah,Saudade,Carnaval,Coastline,Guitar,Copacabana,Breeze}');

CREATE FUNCTION demo.adjective(scene int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT ('{Midnight,Golden,Broken,Electric,Silent,Burning,Paper,Crystal,Lonesome,Velvet,Distant,Hollow,Crimson,'
        'Restless,Frozen,Wandering,Neon,Gentle,Shattered,Endless}'::text[])[1 + scene % 20]
$$;

-- Nearly normal, variance 1/4: three uniform numbers added (PostgreSQL 15 has no random_normal).
CREATE FUNCTION demo.noise() RETURNS double precision LANGUAGE sql VOLATILE AS
    'SELECT random() + random() + random() - 1.5';

-- `+ 0 * id` ties the subquery to its row: without it, it would run once and every centre would be the same.
CREATE TABLE demo.scenes (id int PRIMARY KEY, genre_id int, centre real[]);
SELECT setseed(0.5);
WITH centres AS MATERIALIZED (
    SELECT id, ARRAY(SELECT demo.noise() FROM generate_series(1, 128 + 0 * id)) AS centre FROM demo.genres
)
INSERT INTO demo.scenes
SELECT scene, g.id, ARRAY(SELECT c + 0.7 * demo.noise() FROM unnest(g.centre) AS c)
FROM generate_series(0, 239) AS scene JOIN centres AS g ON g.id = scene / 20;

-- Some scenes are crowded and some are not, as everywhere.
CREATE FUNCTION demo.points(first bigint, last bigint)
RETURNS TABLE (id bigint, scene_id int, genre_id int, embedding real[]) LANGUAGE sql VOLATILE AS $$
    SELECT p.id, s.id, s.genre_id, ARRAY(SELECT c + 0.5 * (random() + random() + random() - 1.5) FROM unnest(s.centre) AS c)
    FROM (SELECT i AS id, (97 * floor(240 * random() * sqrt(random())))::int % 240 AS scene_id
          FROM generate_series(first, last) AS i) AS p
    JOIN demo.scenes AS s ON s.id = p.scene_id
$$;

CREATE PROCEDURE demo.add_tracks(first bigint, last bigint) LANGUAGE sql AS $$
    SELECT setseed(first / 1000000.0);
    INSERT INTO tracks
    SELECT p.id,
        demo.adjective(p.scene_id + (p.id % 5 = 0)::int) || ' ' || g.nouns[1 + (p.id / 7) % 8]
            || (ARRAY['', '', '', '', ' (Live)', '', '', ' (Remix)', '', ' II'])[1 + (p.id / 11) % 10],
        g.name,
        p.embedding
    FROM demo.points(first, last) AS p JOIN demo.genres AS g ON g.id = p.genre_id
$$;

-- Queries of their own: from the same scenes, none of them a track.
CREATE TABLE demo.queries AS
SELECT id, embedding::vector(128), NULL::float AS exact_ms, NULL::float AS index_ms, NULL::int AS found
FROM demo.points(1, 100), (SELECT setseed(0.9)) AS seeded;

-- Answers each query twice, by the index and exactly, and notes how long that took and how many of the ten agree.
CREATE PROCEDURE demo.measure(first bigint, last bigint) LANGUAGE plpgsql AS $$
DECLARE
    search constant text := 'SELECT array_agg(id) FROM (SELECT id FROM tracks ORDER BY embedding <-> $1 LIMIT 10) AS nearest';
    query record;
    began timestamptz;
    by_index bigint[];
    exact bigint[];
BEGIN
    FOR query IN SELECT id, embedding FROM demo.queries WHERE id BETWEEN first AND last LOOP
        began := clock_timestamp();
        EXECUTE search INTO by_index USING query.embedding;
        UPDATE demo.queries SET index_ms = 1000 * extract(epoch FROM clock_timestamp() - began) WHERE id = query.id;

        SET LOCAL enable_indexscan = off;
        began := clock_timestamp();
        EXECUTE search INTO exact USING query.embedding;
        UPDATE demo.queries SET exact_ms = 1000 * extract(epoch FROM clock_timestamp() - began),
            found = (SELECT count(*) FROM unnest(exact) AS id WHERE id = ANY (by_index))
        WHERE id = query.id;
        SET LOCAL enable_indexscan = on;
    END LOOP;
END
$$;
