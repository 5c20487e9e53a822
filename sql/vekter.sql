\echo Use "CREATE EXTENSION vekter" to load this file. \quit

-- Every function of the type is immutable, strict and parallel safe, but for the one that ANALYZE calls. Names, casts
-- and operators are pgvector's; the behaviour behind them is in src/vector/.

-- pgvector's type bears the same name; CREATE TYPE would fail as well, but not say what to do.
DO $$
DECLARE
    existing oid := to_regtype(quote_ident(current_schema()) || '.vector');
    owner name := (
        SELECT e.extname
        FROM pg_depend d
        JOIN pg_extension e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_type'::regclass AND d.objid = existing AND d.deptype = 'e'
    );
BEGIN
    IF existing IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_object',
            MESSAGE = format('type "vector" already exists in schema "%s"', current_schema()),
            DETAIL = coalesce('It belongs to the extension "' || owner || '".', 'It belongs to no extension.'),
            HINT = CASE owner
                WHEN 'vector' THEN 'Index its columns as they are, with vekter in a schema of its own: CREATE SCHEMA vekter; '
                    'CREATE EXTENSION vekter_pgvector SCHEMA vekter CASCADE;'
                ELSE 'Give vekter a schema of its own: CREATE SCHEMA vekter; CREATE EXTENSION vekter SCHEMA vekter;'
            END;
    END IF;
END $$;

-- Type vector ------------------------------------------------------------------------------------------------

CREATE TYPE vector;

CREATE FUNCTION vector_in(cstring, oid, integer) RETURNS vector
    AS 'MODULE_PATHNAME', 'vector_in_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_out(vector) RETURNS cstring
    AS 'MODULE_PATHNAME', 'vector_out_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_typmod_in(cstring[]) RETURNS integer
    AS 'MODULE_PATHNAME', 'vector_typmod_in_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_recv(internal, oid, integer) RETURNS vector
    AS 'MODULE_PATHNAME', 'vector_recv_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_send(vector) RETURNS bytea
    AS 'MODULE_PATHNAME', 'vector_send_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_subscript(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'vector_subscript_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_typanalyze(internal) RETURNS boolean
    AS 'MODULE_PATHNAME', 'vector_typanalyze_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE TYPE vector (
    INPUT = vector_in,
    OUTPUT = vector_out,
    TYPMOD_IN = vector_typmod_in,
    RECEIVE = vector_recv,
    SEND = vector_send,
    SUBSCRIPT = vector_subscript,
    ANALYZE = vector_typanalyze,
    STORAGE = external
);

-- Casts ------------------------------------------------------------------------------------------------------

CREATE FUNCTION vector(vector, integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION array_to_vector(integer[], integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION array_to_vector(smallint[], integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION array_to_vector(bigint[], integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION array_to_vector(real[], integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION array_to_vector(double precision[], integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION array_to_vector(numeric[], integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_to_float4(vector, integer, boolean) RETURNS real[]
    AS 'MODULE_PATHNAME', 'vector_to_float4_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE CAST (vector AS vector)
    WITH FUNCTION vector(vector, integer, boolean) AS IMPLICIT;

CREATE CAST (vector AS real[])
    WITH FUNCTION vector_to_float4(vector, integer, boolean) AS IMPLICIT;

-- Not implicit: ARRAY[1] = ARRAY[1] would become ambiguous.

CREATE CAST (integer[] AS vector)
    WITH FUNCTION array_to_vector(integer[], integer, boolean) AS ASSIGNMENT;

CREATE CAST (smallint[] AS vector)
    WITH FUNCTION array_to_vector(smallint[], integer, boolean) AS ASSIGNMENT;

CREATE CAST (bigint[] AS vector)
    WITH FUNCTION array_to_vector(bigint[], integer, boolean) AS ASSIGNMENT;

CREATE CAST (real[] AS vector)
    WITH FUNCTION array_to_vector(real[], integer, boolean) AS ASSIGNMENT;

CREATE CAST (double precision[] AS vector)
    WITH FUNCTION array_to_vector(double precision[], integer, boolean) AS ASSIGNMENT;

CREATE CAST (numeric[] AS vector)
    WITH FUNCTION array_to_vector(numeric[], integer, boolean) AS ASSIGNMENT;

-- To web clients, and back: JSON arrays of numbers, only where a query asks for them.

CREATE FUNCTION jsonb_to_vector(jsonb, integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'jsonb_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_to_jsonb(vector) RETURNS jsonb
    AS 'MODULE_PATHNAME', 'vector_to_jsonb_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION json_to_vector(json, integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'json_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE CAST (json AS vector)
    WITH FUNCTION json_to_vector(json, integer, boolean);

-- Not by a function: row_to_json() and its like would call it, and no longer give a vector as text, as with pgvector.
CREATE CAST (vector AS json)
    WITH INOUT;

CREATE CAST (jsonb AS vector)
    WITH FUNCTION jsonb_to_vector(jsonb, integer, boolean);

CREATE CAST (vector AS jsonb)
    WITH FUNCTION vector_to_jsonb(vector);

-- Distances --------------------------------------------------------------------------------------------------

-- What a distance to a long vector costs, which is not in its row.
CREATE FUNCTION vector_distance_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION l2_distance(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'l2_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    SUPPORT vector_distance_support;

CREATE FUNCTION inner_product(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'inner_product_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    SUPPORT vector_distance_support;

CREATE FUNCTION cosine_distance(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'cosine_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    SUPPORT vector_distance_support;

CREATE FUNCTION l1_distance(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'l1_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    SUPPORT vector_distance_support;

CREATE FUNCTION vector_l2_squared_distance(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'vector_l2_squared_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    SUPPORT vector_distance_support;

CREATE FUNCTION vector_negative_inner_product(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'vector_negative_inner_product_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    SUPPORT vector_distance_support;

CREATE FUNCTION vector_spherical_distance(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'vector_spherical_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    SUPPORT vector_distance_support;

CREATE FUNCTION vector_dims(vector) RETURNS integer
    AS 'MODULE_PATHNAME', 'vector_dims_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_norm(vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'vector_norm_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR <-> (LEFTARG = vector, RIGHTARG = vector, FUNCTION = l2_distance, COMMUTATOR = <->);

CREATE OPERATOR <#> (LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_negative_inner_product, COMMUTATOR = <#>);

CREATE OPERATOR <=> (LEFTARG = vector, RIGHTARG = vector, FUNCTION = cosine_distance, COMMUTATOR = <=>);

CREATE OPERATOR <+> (LEFTARG = vector, RIGHTARG = vector, FUNCTION = l1_distance, COMMUTATOR = <+>);

-- Arithmetic -------------------------------------------------------------------------------------------------

CREATE FUNCTION vector_add(vector, vector) RETURNS vector
    AS 'MODULE_PATHNAME', 'vector_add_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_sub(vector, vector) RETURNS vector
    AS 'MODULE_PATHNAME', 'vector_sub_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_mul(vector, vector) RETURNS vector
    AS 'MODULE_PATHNAME', 'vector_mul_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_concat(vector, vector) RETURNS vector
    AS 'MODULE_PATHNAME', 'vector_concat_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION l2_normalize(vector) RETURNS vector
    AS 'MODULE_PATHNAME', 'l2_normalize_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION subvector(vector, integer, integer) RETURNS vector
    AS 'MODULE_PATHNAME', 'subvector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION binary_quantize(vector) RETURNS bit
    AS 'MODULE_PATHNAME', 'binary_quantize_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR + (LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_add, COMMUTATOR = +);

CREATE OPERATOR - (LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_sub);

CREATE OPERATOR * (LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_mul, COMMUTATOR = *);

CREATE OPERATOR || (LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_concat);

-- Comparison -------------------------------------------------------------------------------------------------

CREATE FUNCTION vector_lt(vector, vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'vector_lt_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_le(vector, vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'vector_le_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_eq(vector, vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'vector_eq_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_ne(vector, vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'vector_ne_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_ge(vector, vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'vector_ge_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_gt(vector, vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'vector_gt_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_cmp(vector, vector) RETURNS integer
    AS 'MODULE_PATHNAME', 'vector_cmp_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR < (
    LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_lt,
    COMMUTATOR = >, NEGATOR = >=, RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);

CREATE OPERATOR <= (
    LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_le,
    COMMUTATOR = >=, NEGATOR = >, RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);

CREATE OPERATOR = (
    LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_eq,
    COMMUTATOR = =, NEGATOR = <>, RESTRICT = eqsel, JOIN = eqjoinsel,
    HASHES, MERGES
);

CREATE OPERATOR <> (
    LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_ne,
    COMMUTATOR = <>, NEGATOR = =, RESTRICT = neqsel, JOIN = neqjoinsel
);

CREATE OPERATOR >= (
    LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_ge,
    COMMUTATOR = <=, NEGATOR = <, RESTRICT = scalargesel, JOIN = scalargejoinsel
);

CREATE OPERATOR > (
    LEFTARG = vector, RIGHTARG = vector, FUNCTION = vector_gt,
    COMMUTATOR = <, NEGATOR = <=, RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);

CREATE OPERATOR CLASS vector_ops DEFAULT FOR TYPE vector USING btree AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >,
    FUNCTION 1 vector_cmp(vector, vector);

CREATE FUNCTION vector_hash(vector) RETURNS integer
    AS 'MODULE_PATHNAME', 'vector_hash_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_hash_extended(vector, bigint) RETURNS bigint
    AS 'MODULE_PATHNAME', 'vector_hash_extended_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR CLASS vector_ops DEFAULT FOR TYPE vector USING hash AS
    OPERATOR 1 =,
    FUNCTION 1 vector_hash(vector),
    FUNCTION 2 vector_hash_extended(vector, bigint);

-- Aggregates -------------------------------------------------------------------------------------------------

CREATE FUNCTION vector_accum(double precision[], vector) RETURNS double precision[]
    AS 'MODULE_PATHNAME', 'vector_accum_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_combine(double precision[], double precision[]) RETURNS double precision[]
    AS 'MODULE_PATHNAME', 'vector_combine_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

-- As vector_combine, which refuses two states of no rows as pgvector 0.8.6's does. With that one, avg() fails on a
-- table that several processes scan and in which none finds a row (pgvector has it so up to 0.8.6).
CREATE FUNCTION vector_avg_combine(double precision[], double precision[]) RETURNS double precision[]
    AS 'MODULE_PATHNAME', 'vector_avg_combine_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_avg(double precision[]) RETURNS vector
    AS 'MODULE_PATHNAME', 'vector_avg_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE AGGREGATE avg(vector) (
    SFUNC = vector_accum,
    STYPE = double precision[],
    FINALFUNC = vector_avg,
    COMBINEFUNC = vector_avg_combine,
    INITCOND = '{0}',
    PARALLEL = SAFE
);

CREATE AGGREGATE sum(vector) (
    SFUNC = vector_add,
    STYPE = vector,
    COMBINEFUNC = vector_add,
    PARALLEL = SAFE
);

CREATE FUNCTION vector_larger(vector, vector) RETURNS vector
    AS 'MODULE_PATHNAME', 'vector_larger_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_smaller(vector, vector) RETURNS vector
    AS 'MODULE_PATHNAME', 'vector_smaller_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE AGGREGATE max(vector) (
    SFUNC = vector_larger,
    STYPE = vector,
    COMBINEFUNC = vector_larger,
    SORTOP = >,
    PARALLEL = SAFE
);

CREATE AGGREGATE min(vector) (
    SFUNC = vector_smaller,
    STYPE = vector,
    COMBINEFUNC = vector_smaller,
    SORTOP = <,
    PARALLEL = SAFE
);

-- Access method ----------------------------------------------------------------------------------------------

CREATE FUNCTION faiss_handler(internal) RETURNS index_am_handler
    AS 'MODULE_PATHNAME', 'faiss_handler_wrapper' LANGUAGE C;

CREATE ACCESS METHOD faiss TYPE INDEX HANDLER faiss_handler;

-- Support function 1 of an operator class returns the code of its metric, and support function 2, where there is one,
-- that of how values are stored, if it is otherwise than as float4.

CREATE FUNCTION vekter_metric_l2() RETURNS integer
    AS 'MODULE_PATHNAME', 'vekter_metric_l2_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vekter_metric_ip() RETURNS integer
    AS 'MODULE_PATHNAME', 'vekter_metric_ip_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vekter_metric_cosine() RETURNS integer
    AS 'MODULE_PATHNAME', 'vekter_metric_cosine_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vekter_metric_l1() RETURNS integer
    AS 'MODULE_PATHNAME', 'vekter_metric_l1_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vekter_value_half() RETURNS integer
    AS 'MODULE_PATHNAME', 'vekter_value_half_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR CLASS vector_l2_ops DEFAULT FOR TYPE vector USING faiss AS
    OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops,
    FUNCTION 1 vekter_metric_l2();

CREATE OPERATOR CLASS vector_ip_ops FOR TYPE vector USING faiss AS
    OPERATOR 1 <#> (vector, vector) FOR ORDER BY float_ops,
    FUNCTION 1 vekter_metric_ip();

CREATE OPERATOR CLASS vector_cosine_ops FOR TYPE vector USING faiss AS
    OPERATOR 1 <=> (vector, vector) FOR ORDER BY float_ops,
    FUNCTION 1 vekter_metric_cosine();

CREATE OPERATOR CLASS vector_l1_ops FOR TYPE vector USING faiss AS
    OPERATOR 1 <+> (vector, vector) FOR ORDER BY float_ops,
    FUNCTION 1 vekter_metric_l1();

-- Functions --------------------------------------------------------------------------------------------------

CREATE FUNCTION vekter_create_index(
    "table" regclass, id_column name, vector_column name,
    factory text DEFAULT 'auto', metric text DEFAULT 'l2', name name DEFAULT NULL
) RETURNS regclass
    AS 'MODULE_PATHNAME', 'vekter_create_index_wrapper' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION knn(
    index regclass, query vector, k integer DEFAULT 10, search text DEFAULT NULL,
    recall double precision DEFAULT NULL, filter text DEFAULT NULL
)
    RETURNS TABLE (id bigint, distance double precision)
    AS 'MODULE_PATHNAME', 'knn_wrapper' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 10;

CREATE FUNCTION knn_like(
    index regclass, row_id bigint, k integer DEFAULT 10, search text DEFAULT NULL,
    recall double precision DEFAULT NULL, filter text DEFAULT NULL
)
    RETURNS TABLE (id bigint, distance double precision)
    AS 'MODULE_PATHNAME', 'knn_like_wrapper' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 10;

CREATE FUNCTION knn_within(
    index regclass, query vector, radius double precision, max_rows integer DEFAULT NULL, search text DEFAULT NULL,
    recall double precision DEFAULT NULL, filter text DEFAULT NULL
)
    RETURNS TABLE (id bigint, distance double precision)
    AS 'MODULE_PATHNAME', 'knn_within_wrapper' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 100;

CREATE FUNCTION knn_rows(
    of anyelement, query vector, k integer DEFAULT 10, index regclass DEFAULT NULL, search text DEFAULT NULL,
    recall double precision DEFAULT NULL, filter text DEFAULT NULL
)
    RETURNS TABLE (item anyelement, distance double precision)
    AS 'MODULE_PATHNAME', 'knn_rows_wrapper' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 10;

CREATE FUNCTION knn_batch(
    index regclass, queries vector[], k integer DEFAULT 10, search text DEFAULT NULL,
    recall double precision DEFAULT NULL
)
    RETURNS TABLE (query_no integer, id bigint, distance double precision)
    AS 'MODULE_PATHNAME', 'knn_batch_wrapper' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 1000;

CREATE FUNCTION knn_join(
    left_table regclass, left_id name, left_vector name, index regclass, k integer DEFAULT 10,
    search text DEFAULT NULL, recall double precision DEFAULT NULL
)
    RETURNS TABLE (left_id bigint, id bigint, distance double precision)
    AS 'MODULE_PATHNAME', 'knn_join_wrapper' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 1000;

-- Without defaults: no call leaves open which of the two is meant.
CREATE FUNCTION knn_join(
    left_table regclass, left_id name, left_vector name, index regclass, k integer, search text,
    recall double precision, id_type anyelement
)
    RETURNS TABLE (left_id anyelement, id bigint, distance double precision)
    AS 'MODULE_PATHNAME', 'knn_join_wrapper' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 1000;

-- knn_join() borrows the view of COPY, whose command is never NULL. A function, for no relation of the extension's is
-- to be in the way of tools that compare a schema's relations with those that they know.
CREATE FUNCTION vekter_join_progress(
    OUT pid integer, OUT datname name, OUT left_table regclass, OUT rows_done bigint, OUT rows_without_vector bigint,
    OUT rows_estimated bigint
) RETURNS SETOF record LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 1
BEGIN ATOMIC
    SELECT p.pid, p.datname, p.relid::regclass, p.tuples_processed, p.tuples_excluded, nullif(c.reltuples, -1)::bigint
      FROM pg_catalog.pg_stat_progress_copy p
      LEFT JOIN pg_catalog.pg_class c ON c.oid = p.relid AND p.datname = pg_catalog.current_database()
     WHERE p.command IS NULL AND p.relid <> 0;
END;

CREATE FUNCTION vekter_index_stats(
    index regclass,
    OUT factory text, OUT reason text, OUT metric text, OUT dimensions integer, OUT segments integer,
    OUT rows_indexed bigint, OUT delta_rows bigint, OUT dead_rows bigint, OUT index_bytes bigint, OUT cache_bytes bigint,
    OUT format_version integer
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'vekter_index_stats_wrapper' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 1;

CREATE FUNCTION vekter_compact(index regclass) RETURNS void
    AS 'MODULE_PATHNAME', 'vekter_compact_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION vekter_segments(
    index regclass,
    OUT id text, OUT level integer, OUT factory text, OUT rows bigint, OUT dead_rows bigint, OUT bytes bigint,
    OUT cached boolean
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'vekter_segments_wrapper' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 10;

CREATE FUNCTION vekter_operating_points(
    index regclass,
    OUT segment text, OUT factory text, OUT search text, OUT recall double precision, OUT microseconds double precision
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'vekter_operating_points_wrapper' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 20;

CREATE FUNCTION vekter_recall(index regclass, k integer DEFAULT 10, sample integer DEFAULT 100) RETURNS double precision
    AS 'MODULE_PATHNAME', 'vekter_recall_wrapper' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

-- Nothing but the indexes may answer the queries that are timed. The costs of what is disabled would have PostgreSQL
-- compile the plans.
CREATE FUNCTION vekter_compare_indexes(indexes regclass[], k integer DEFAULT 10, sample integer DEFAULT 100)
    RETURNS TABLE (
        index regclass, access_method text, recall double precision, milliseconds double precision, bytes bigint
    )
    AS 'MODULE_PATHNAME', 'vekter_compare_indexes_wrapper' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 2
    SET enable_seqscan = off SET enable_sort = off SET jit = off;

CREATE FUNCTION vekter_check(
    index regclass, heap boolean DEFAULT false, OUT severity text, OUT place text, OUT problem text
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'vekter_check_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 1;

CREATE FUNCTION vekter_kmeans(
    "table" regclass, id_column name, vector_column name, clusters integer,
    metric text DEFAULT 'l2', seed integer DEFAULT 0, iterations integer DEFAULT 25
) RETURNS TABLE (id bigint, cluster integer, distance double precision)
    AS 'MODULE_PATHNAME', 'vekter_kmeans_wrapper' LANGUAGE C STABLE STRICT PARALLEL UNSAFE ROWS 10000;

CREATE FUNCTION vekter_kmeans_centroids(
    "table" regclass, id_column name, vector_column name, clusters integer,
    metric text DEFAULT 'l2', seed integer DEFAULT 0, iterations integer DEFAULT 25
) RETURNS TABLE (cluster integer, centroid vector, rows bigint)
    AS 'MODULE_PATHNAME', 'vekter_kmeans_centroids_wrapper' LANGUAGE C STABLE STRICT PARALLEL UNSAFE ROWS 100;

CREATE FUNCTION vekter_quantize(index regclass, vector vector)
    RETURNS TABLE (code bytea, decoded vector, error double precision)
    AS 'MODULE_PATHNAME', 'vekter_quantize_wrapper' LANGUAGE C STABLE STRICT PARALLEL UNSAFE ROWS 1;

CREATE FUNCTION vekter_reconstruct(index regclass, id bigint)
    RETURNS TABLE (decoded vector, error double precision)
    AS 'MODULE_PATHNAME', 'vekter_reconstruct_wrapper' LANGUAGE C STABLE STRICT PARALLEL UNSAFE ROWS 1;

CREATE FUNCTION vekter_export(index regclass) RETURNS bytea
    AS 'MODULE_PATHNAME', 'vekter_export_wrapper' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

CREATE FUNCTION vekter_export(index regclass, file text) RETURNS bigint
    AS 'MODULE_PATHNAME', 'vekter_export_file_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION vekter_import(
    "table" regclass, id_column name, vector_column name, data bytea, metric text DEFAULT NULL, name name DEFAULT NULL
) RETURNS regclass
    AS 'MODULE_PATHNAME', 'vekter_import_wrapper' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION vekter_import(
    "table" regclass, id_column name, vector_column name, file text, metric text DEFAULT NULL, name name DEFAULT NULL
) RETURNS regclass
    AS 'MODULE_PATHNAME', 'vekter_import_file_wrapper' LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Descriptions ------------------------------------------------------------------------------------------------

-- psql shows them (\df+, \do+, \dA+), and docs/reference.md is made of them. That of a function which users do not call
-- begins with Supports or Implements.

-- The type.

COMMENT ON TYPE vector IS
    'Single-precision floats: vector(n) has n dimensions, from 1 to 16,000; vector has any number of them. Text form: '
    '[1,2.5,3].';
COMMENT ON FUNCTION vector_in(cstring, oid, integer) IS 'Supports the type vector: reads the text form.';
COMMENT ON FUNCTION vector_out(vector) IS 'Supports the type vector: writes the text form.';
COMMENT ON FUNCTION vector_typmod_in(cstring[]) IS
    'Supports the type vector: reads the number of dimensions in vector(n).';
COMMENT ON FUNCTION vector_recv(internal, oid, integer) IS 'Supports the type vector: reads the binary form.';
COMMENT ON FUNCTION vector_send(vector) IS 'Supports the type vector: writes the binary form.';
COMMENT ON FUNCTION vector_subscript(internal) IS 'Supports the type vector: reads an element by its subscript.';
COMMENT ON FUNCTION vector_typanalyze(internal) IS
    'Supports the type vector: collects statistics in ANALYZE, without storing vectors.';

-- Casts.

COMMENT ON FUNCTION vector(vector, integer, boolean) IS
    'Supports casts from vector to vector(n): checks the number of dimensions.';
COMMENT ON FUNCTION array_to_vector(integer[], integer, boolean) IS 'Supports casts from integer[] to vector.';
COMMENT ON FUNCTION array_to_vector(smallint[], integer, boolean) IS 'Supports casts from smallint[] to vector.';
COMMENT ON FUNCTION array_to_vector(bigint[], integer, boolean) IS 'Supports casts from bigint[] to vector.';
COMMENT ON FUNCTION array_to_vector(real[], integer, boolean) IS 'Supports casts from real[] to vector.';
COMMENT ON FUNCTION array_to_vector(double precision[], integer, boolean) IS
    'Supports casts from double precision[] to vector.';
COMMENT ON FUNCTION array_to_vector(numeric[], integer, boolean) IS 'Supports casts from numeric[] to vector.';
COMMENT ON FUNCTION vector_to_float4(vector, integer, boolean) IS 'Supports casts from vector to real[].';
COMMENT ON FUNCTION jsonb_to_vector(jsonb, integer, boolean) IS 'Supports casts from jsonb to vector.';
COMMENT ON FUNCTION vector_to_jsonb(vector) IS 'Supports casts from vector to jsonb.';
COMMENT ON FUNCTION json_to_vector(json, integer, boolean) IS 'Supports casts from json to vector.';
COMMENT ON CAST (vector AS vector) IS 'Checks that the vector has the dimensions of vector(n).';
COMMENT ON CAST (vector AS real[]) IS 'Gives the elements as an array.';
COMMENT ON CAST (integer[] AS vector) IS
    'Makes a vector of the array''s elements, which are rounded to single precision.';
COMMENT ON CAST (smallint[] AS vector) IS 'Makes a vector of the array''s elements.';
COMMENT ON CAST (bigint[] AS vector) IS
    'Makes a vector of the array''s elements, which are rounded to single precision.';
COMMENT ON CAST (real[] AS vector) IS 'Makes a vector of the array''s elements.';
COMMENT ON CAST (double precision[] AS vector) IS
    'Makes a vector of the array''s elements, which are rounded to single precision.';
COMMENT ON CAST (numeric[] AS vector) IS
    'Makes a vector of the array''s elements, which are rounded to single precision.';
COMMENT ON CAST (json AS vector) IS 'Makes a vector of a JSON array of numbers.';
COMMENT ON CAST (vector AS json) IS 'Gives the elements as a JSON array of numbers.';
COMMENT ON CAST (jsonb AS vector) IS 'Makes a vector of a JSON array of numbers.';
COMMENT ON CAST (vector AS jsonb) IS 'Gives the elements as a JSON array of numbers.';

-- Distances.

COMMENT ON FUNCTION vector_distance_support(internal) IS
    'Supports the distances: estimates the cost of a distance to a vector that is stored out of line.';
COMMENT ON FUNCTION l2_distance(vector, vector) IS 'Returns the Euclidean distance of two vectors.';
COMMENT ON FUNCTION inner_product(vector, vector) IS 'Returns the inner product of two vectors.';
COMMENT ON FUNCTION cosine_distance(vector, vector) IS
    'Returns the cosine distance of two vectors: 1 less the cosine of their angle. NaN if one of them is zero.';
COMMENT ON FUNCTION l1_distance(vector, vector) IS
    'Returns the taxicab distance of two vectors: the sum of the absolute differences of their elements.';
COMMENT ON FUNCTION vector_l2_squared_distance(vector, vector) IS
    'Returns the square of the Euclidean distance of two vectors.';
COMMENT ON FUNCTION vector_negative_inner_product(vector, vector) IS 'Implements the operator <#>.';
COMMENT ON FUNCTION vector_spherical_distance(vector, vector) IS
    'Returns the angle of two vectors of length 1, divided by pi.';
COMMENT ON FUNCTION vector_dims(vector) IS 'Returns the number of dimensions.';
COMMENT ON FUNCTION vector_norm(vector) IS 'Returns the Euclidean norm (the length) of the vector.';
COMMENT ON OPERATOR <-> (vector, vector) IS 'Euclidean distance';
COMMENT ON OPERATOR <#> (vector, vector) IS 'negative inner product';
COMMENT ON OPERATOR <=> (vector, vector) IS 'cosine distance';
COMMENT ON OPERATOR <+> (vector, vector) IS 'taxicab distance';

-- Arithmetic.

COMMENT ON FUNCTION vector_add(vector, vector) IS 'Implements the operator +.';
COMMENT ON FUNCTION vector_sub(vector, vector) IS 'Implements the operator -.';
COMMENT ON FUNCTION vector_mul(vector, vector) IS 'Implements the operator *.';
COMMENT ON FUNCTION vector_concat(vector, vector) IS 'Implements the operator ||.';
COMMENT ON FUNCTION l2_normalize(vector) IS
    'Returns the vector divided by its Euclidean norm; a zero vector unchanged.';
COMMENT ON FUNCTION subvector(vector, integer, integer) IS
    'Returns a part of the vector: first element, from 1 on, and number of elements.';
COMMENT ON FUNCTION binary_quantize(vector) IS
    'Returns one bit for each element: 1 if the element is positive, else 0.';
COMMENT ON OPERATOR + (vector, vector) IS 'sum by elements';
COMMENT ON OPERATOR - (vector, vector) IS 'difference by elements';
COMMENT ON OPERATOR * (vector, vector) IS 'product by elements';
COMMENT ON OPERATOR || (vector, vector) IS 'concatenation';

-- Comparison.

COMMENT ON FUNCTION vector_lt(vector, vector) IS 'Implements the operator <.';
COMMENT ON FUNCTION vector_le(vector, vector) IS 'Implements the operator <=.';
COMMENT ON FUNCTION vector_eq(vector, vector) IS 'Implements the operator =.';
COMMENT ON FUNCTION vector_ne(vector, vector) IS 'Implements the operator <>.';
COMMENT ON FUNCTION vector_ge(vector, vector) IS 'Implements the operator >=.';
COMMENT ON FUNCTION vector_gt(vector, vector) IS 'Implements the operator >.';
COMMENT ON OPERATOR < (vector, vector) IS 'less than, by elements and then by dimensions';
COMMENT ON OPERATOR <= (vector, vector) IS 'less than or equal, by elements and then by dimensions';
COMMENT ON OPERATOR = (vector, vector) IS 'equal';
COMMENT ON OPERATOR <> (vector, vector) IS 'not equal';
COMMENT ON OPERATOR >= (vector, vector) IS 'greater than or equal, by elements and then by dimensions';
COMMENT ON OPERATOR > (vector, vector) IS 'greater than, by elements and then by dimensions';
COMMENT ON FUNCTION vector_cmp(vector, vector) IS
    'Supports btree indexes: compares two vectors by elements and then by dimensions.';
COMMENT ON FUNCTION vector_hash(vector) IS 'Supports hash indexes, hash joins and hash aggregation.';
COMMENT ON FUNCTION vector_hash_extended(vector, bigint) IS 'Supports hash partitions: a hash with a seed.';
COMMENT ON OPERATOR CLASS vector_ops USING btree IS 'Sorts vectors by elements and then by dimensions.';
COMMENT ON OPERATOR CLASS vector_ops USING hash IS 'Hashes vectors, for =, GROUP BY, joins and PARTITION BY HASH.';

-- Aggregates.

COMMENT ON FUNCTION vector_accum(double precision[], vector) IS
    'Supports the aggregate avg: adds a vector to the state.';
COMMENT ON FUNCTION vector_combine(double precision[], double precision[]) IS
    'Supports aggregates as pgvector defines them: adds two states.';
COMMENT ON FUNCTION vector_avg_combine(double precision[], double precision[]) IS
    'Supports the aggregate avg: adds two states of parallel workers.';
COMMENT ON FUNCTION vector_avg(double precision[]) IS
    'Supports the aggregate avg: divides the state by the number of vectors.';
COMMENT ON FUNCTION vector_larger(vector, vector) IS 'Supports the aggregate max: returns the greater vector.';
COMMENT ON FUNCTION vector_smaller(vector, vector) IS 'Supports the aggregate min: returns the lesser vector.';
COMMENT ON AGGREGATE avg(vector) IS 'Returns the mean of the vectors, by elements.';
COMMENT ON AGGREGATE sum(vector) IS 'Returns the sum of the vectors, by elements.';
COMMENT ON AGGREGATE max(vector) IS
    'Returns the greatest vector in the order of <: by elements and then by dimensions.';
COMMENT ON AGGREGATE min(vector) IS 'Returns the least vector in the order of <: by elements and then by dimensions.';

-- The access method.

COMMENT ON FUNCTION faiss_handler(internal) IS 'Supports the access method faiss.';
COMMENT ON ACCESS METHOD faiss IS 'Nearest-neighbour indexes by FAISS. Options: factory, search, recall, delta_limit.';
COMMENT ON FUNCTION vekter_metric_l2() IS 'Supports the operator classes of faiss for Euclidean distance.';
COMMENT ON FUNCTION vekter_metric_ip() IS 'Supports the operator classes of faiss for inner products.';
COMMENT ON FUNCTION vekter_metric_cosine() IS 'Supports the operator classes of faiss for cosine distance.';
COMMENT ON FUNCTION vekter_metric_l1() IS 'Supports the operator classes of faiss for taxicab distance.';
COMMENT ON FUNCTION vekter_value_half() IS 'Supports the operator classes of faiss for pgvector''s halfvec.';
COMMENT ON OPERATOR CLASS vector_l2_ops USING faiss IS 'Serves ORDER BY with <->, the Euclidean distance.';
COMMENT ON OPERATOR CLASS vector_ip_ops USING faiss IS 'Serves ORDER BY with <#>, the negative inner product.';
COMMENT ON OPERATOR CLASS vector_cosine_ops USING faiss IS
    'Serves ORDER BY with <=>, the cosine distance. Zero vectors are not indexed.';
COMMENT ON OPERATOR CLASS vector_l1_ops USING faiss IS 'Serves ORDER BY with <+>, the taxicab distance.';

-- Functions.

COMMENT ON FUNCTION vekter_create_index(regclass, name, name, text, text, name) IS
    'Creates a faiss index of vector_column that includes id_column. factory: a FAISS factory string or auto. metric: '
    'l2, ip, cosine or l1. name: by default PostgreSQL chooses one.';
COMMENT ON FUNCTION knn(regclass, vector, integer, text, double precision, text) IS
    'Returns the k rows nearest to query. index: the index or its table. search: search parameters. recall: share of '
    'the true neighbours to find. filter: a condition on the table''s columns.';
COMMENT ON FUNCTION knn_like(regclass, bigint, integer, text, double precision, text) IS
    'Returns the k rows nearest to the stored row with the id row_id, without that row. Other arguments: as of knn().';
COMMENT ON FUNCTION knn_within(regclass, vector, double precision, integer, text, double precision, text) IS
    'Returns the rows whose distance from query is at most radius; with max_rows, only the nearest of them. Other '
    'arguments: as of knn().';
COMMENT ON FUNCTION knn_rows(anyelement, vector, integer, regclass, text, double precision, text) IS
    'Returns the k rows nearest to query as whole rows. of: a value of the table''s row type, such as NULL::tracks. '
    'index: needed if the table has several. Other arguments: as of knn().';
COMMENT ON FUNCTION knn_batch(regclass, vector[], integer, text, double precision) IS
    'Returns the k nearest rows of each query of an array, on several threads. query_no is the subscript of the '
    'query. Other arguments: as of knn().';
COMMENT ON FUNCTION knn_join(regclass, name, name, regclass, integer, text, double precision) IS
    'Returns the k nearest rows of an index for each row of left_table. left_id, left_vector: its id and vector '
    'columns. Other arguments: as of knn().';
COMMENT ON FUNCTION knn_join(regclass, name, name, regclass, integer, text, double precision, anyelement) IS
    'Returns the same, but left_id in the type of id_type, such as NULL::uuid. This form needs all arguments.';
COMMENT ON FUNCTION vekter_join_progress() IS
    'Returns one row for each knn_join() that is running: rows of the left table that are done, rows without a '
    'vector, and the estimated number of rows.';
COMMENT ON FUNCTION vekter_index_stats(regclass) IS
    'Returns one row about the index: factory and the reason for it, metric, dimensions, segments, rows, rows in the '
    'delta, dead rows, bytes on disk and in the cache.';
COMMENT ON FUNCTION vekter_compact(regclass) IS 'Merges the index into one segment without dead rows.';
COMMENT ON FUNCTION vekter_segments(regclass) IS
    'Returns one row for each segment of the index: factory, rows, dead rows, bytes, and whether the server has it in '
    'the cache.';
COMMENT ON FUNCTION vekter_operating_points(regclass) IS
    'Returns the search parameters that were measured while the index was built, with recall and time of a search, '
    'for each segment.';
COMMENT ON FUNCTION vekter_recall(regclass, integer, integer) IS
    'Measures the share of the k nearest rows that searches find now. sample: number of rows of the table that are '
    'the queries. Each of them reads the whole table.';
COMMENT ON FUNCTION vekter_compare_indexes(regclass[], integer, integer) IS
    'Measures recall, milliseconds of a search and bytes of several indexes of one column, also of other access '
    'methods. sample: number of rows of the table that are the queries.';
COMMENT ON FUNCTION vekter_check(regclass, boolean) IS
    'Returns one row for each damage of the index; no row if it is sound. heap: compare the index with the table as '
    'well.';
COMMENT ON FUNCTION vekter_kmeans(regclass, name, name, integer, text, integer, integer) IS
    'Returns the cluster of each row by k-means, and the distance to its centroid. metric: l2 or cosine. The same '
    'seed gives the same clusters.';
COMMENT ON FUNCTION vekter_kmeans_centroids(regclass, name, name, integer, text, integer, integer) IS
    'Returns the centroids of the clusters that vekter_kmeans() with the same arguments finds, and the number of rows '
    'in each.';
COMMENT ON FUNCTION vekter_quantize(regclass, vector) IS
    'Returns the code that the index stores for the vector: its bytes, the vector that they decode to, and the '
    'distance of the two.';
COMMENT ON FUNCTION vekter_reconstruct(regclass, bigint) IS
    'Returns the vector that the index has stored for the row with that id, and its distance from the vector in the '
    'table.';
COMMENT ON FUNCTION vekter_export(regclass) IS
    'Returns the index as the bytes of a FAISS file, with the ids of the rows as labels.';
COMMENT ON FUNCTION vekter_export(regclass, text) IS
    'Writes the index to a FAISS file on the server, with the ids of the rows as labels, and returns the number of '
    'rows.';
COMMENT ON FUNCTION vekter_import(regclass, name, name, bytea, text, name) IS
    'Creates a faiss index from the bytes of a FAISS file, after comparing it with the table. metric: by default the '
    'file''s. name: by default PostgreSQL chooses one.';
COMMENT ON FUNCTION vekter_import(regclass, name, name, text, text, name) IS
    'Creates a faiss index from a FAISS file on the server, after comparing it with the table. metric: by default the '
    'file''s. name: by default PostgreSQL chooses one.';
