-- Bytes that are no vector raise an error wherever they are read; nothing crashes.
\set SHOW_CONTEXT never
CREATE CAST (bytea AS vector) WITHOUT FUNCTION;

-- a bytea with a vector's contents is one: little-endian dimensions, 0, elements
SELECT '\x0200 0000 0000803f 000000c0'::bytea::vector;

-- shorter than the header
SELECT '\x'::bytea::vector;
\echo :SQLSTATE
SELECT '\x0100'::bytea::vector;
\echo :SQLSTATE
-- no dimensions, a negative number of them, more than there can be
SELECT '\x0000 0000'::bytea::vector;
\echo :SQLSTATE
SELECT '\xffff 0000 0000803f'::bytea::vector;
\echo :SQLSTATE
SELECT vector_dims(('\x813e 0000'::bytea || decode(repeat('00', 4 * 16001), 'hex'))::vector);
\echo :SQLSTATE
-- fewer or more elements than dimensions
SELECT '\x0200 0000 0000803f'::bytea::vector;
\echo :SQLSTATE
SELECT '\x0100 0000 0000803f 0000803f'::bytea::vector;
\echo :SQLSTATE
SELECT '\x0100 0000 0000803f 00'::bytea::vector;
\echo :SQLSTATE

-- every function that takes one
CREATE TEMP TABLE damaged AS SELECT '\x0300 0000 0000803f'::bytea::vector AS v;
DO $$
DECLARE
    expression text;
BEGIN
    FOREACH expression IN ARRAY ARRAY[
        'v::text', 'v::jsonb', 'vector_send(v)', 'v[1]', 'vector_hash(v)', 'vector_hash_extended(v, 0)', 'min(v || v)',
        'vector_smaller(v, v)', 'vector_larger(v, v)', 'v::real[]', 'v::vector(3)', 'vector_dims(v)', 'vector_norm(v)', 'l2_normalize(v)',
        'subvector(v, 1, 1)', 'binary_quantize(v)', 'v <-> v', 'v <#> v', 'v <=> v', 'v <+> v', 'v + v', 'v - v',
        'v * v', 'v || v', 'v < v', 'v <= v', 'v = v', 'v <> v', 'v >= v', 'v > v', 'vector_cmp(v, v)', 'avg(v)',
        'sum(v || v)', 'l2_distance(v, v)', 'inner_product(v, v)', 'cosine_distance(v, v)', 'l1_distance(v, v)',
        'vector_spherical_distance(v, v)', 'vector_l2_squared_distance(v, v)', 'vector_negative_inner_product(v, v)']
    LOOP
        BEGIN
            EXECUTE format('SELECT %s FROM damaged', expression);
            RAISE NOTICE '% did not notice', expression;
        EXCEPTION WHEN data_corrupted THEN
            NULL;
        END;
    END LOOP;
END $$;
DROP CAST (bytea AS vector);
-- an array that SQL does not declare for the cast
CREATE FUNCTION oids_to_vector(oid[], integer, boolean) RETURNS vector
    AS '$libdir/vekter', 'array_to_vector_wrapper' LANGUAGE C STRICT;
SELECT oids_to_vector('{1}', -1, true);
\echo :SQLSTATE
DROP FUNCTION oids_to_vector;
-- a NULL that SQL lets through
CREATE FUNCTION lax_distance(vector, vector) RETURNS double precision AS '$libdir/vekter', 'l2_distance_wrapper' LANGUAGE C;
SELECT lax_distance('[1]', '[3]');
SELECT lax_distance('[1]', NULL);
\echo :SQLSTATE
SELECT lax_distance(NULL, '[1]');
\echo :SQLSTATE
DROP FUNCTION lax_distance;
