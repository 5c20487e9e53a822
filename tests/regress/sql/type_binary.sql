-- The binary form of vector on the wire: big-endian int16 dimensions, int16 0, float4s.
\set SHOW_CONTEXT never
CREATE TEMP TABLE wire (v vector);
CREATE TEMP TABLE wire3 (v vector(3));

SELECT vector_send('[1,-2.5]');
SELECT vector_send('[0,-0,3.4028235e38]');
SELECT length(vector_send(array_fill(1, ARRAY[16000])::vector)) AS bytes;

-- COPY BINARY carries values through send and receive, bit for bit
SELECT current_setting('data_directory') || '/vekter_type_binary' AS file \gset
INSERT INTO wire VALUES ('[1,-2.5]'), (NULL), ('[1e-45,-0,3.4028235e38]'), (array_fill(0.1, ARRAY[16000])::vector);
COPY wire TO :'file' WITH (FORMAT binary);
CREATE TEMP TABLE received (v vector);
COPY received FROM :'file' WITH (FORMAT binary);
SELECT count(*) AS rows, count(DISTINCT vector_send(v)) AS values,
       bool_and(vector_send(v) IN (SELECT vector_send(v) FROM wire)) AS unchanged
FROM received;

-- A COPY file of one row whose only field has these bytes
CREATE FUNCTION pg_temp.copy_of(field bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    bytes bytea := '\x5047434f50590aff0d0a00' || int4send(0) || int4send(0)
        || int2send(1::int2) || int4send(length(field)) || field || int2send((-1)::int2);
    object oid := lo_from_bytea(0, bytes);
BEGIN
    PERFORM lo_export(object, current_setting('data_directory') || '/vekter_type_binary');
    PERFORM lo_unlink(object);
END $$;

SELECT pg_temp.copy_of('\x0003 0000 3f800000 40000000 40400000');
COPY wire3 FROM :'file' WITH (FORMAT binary);
SELECT * FROM wire3;

-- no dimensions, or too many; they are unsigned on the wire
SELECT pg_temp.copy_of('\x0000 0000');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE
SELECT pg_temp.copy_of('\x3e81 0000 3f800000');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE
SELECT pg_temp.copy_of('\xffff 0000 3f800000');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE

-- the type modifier holds here too
SELECT pg_temp.copy_of('\x0002 0000 3f800000 3f800000');
COPY wire3 FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE

-- the second field is reserved
SELECT pg_temp.copy_of('\x0001 0001 3f800000');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE
SELECT pg_temp.copy_of('\x0001 ffff 3f800000');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE

-- elements are finite
SELECT pg_temp.copy_of('\x0002 0000 3f800000 7fc00000');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE
SELECT pg_temp.copy_of('\x0002 0000 3f800000 ff800000');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE

-- too short, too long
SELECT pg_temp.copy_of('\x');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE
SELECT pg_temp.copy_of('\x0001 00');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE
SELECT pg_temp.copy_of('\x0002 0000 3f800000');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE
-- elements before a missing one are looked at first
SELECT pg_temp.copy_of('\x0003 0000 3f800000 7fc00000');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE
SELECT pg_temp.copy_of('\x0001 0000 3f800000 00');
COPY wire FROM :'file' WITH (FORMAT binary);
\echo :SQLSTATE
SELECT 'rm ' || quote_literal(:'file') AS remove \gset
COPY (SELECT) TO PROGRAM :'remove';
