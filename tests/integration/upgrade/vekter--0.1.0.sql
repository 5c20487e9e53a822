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
            HINT = 'Give vekter a schema of its own: CREATE SCHEMA vekter; CREATE EXTENSION vekter SCHEMA vekter;';
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

CREATE CAST (jsonb AS vector)
    WITH FUNCTION jsonb_to_vector(jsonb, integer, boolean);

CREATE CAST (vector AS jsonb)
    WITH FUNCTION vector_to_jsonb(vector);

-- Distances --------------------------------------------------------------------------------------------------

CREATE FUNCTION l2_distance(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'l2_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION inner_product(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'inner_product_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION cosine_distance(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'cosine_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION l1_distance(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'l1_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_l2_squared_distance(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'vector_l2_squared_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_negative_inner_product(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'vector_negative_inner_product_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vector_spherical_distance(vector, vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'vector_spherical_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

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

CREATE FUNCTION vector_avg(double precision[]) RETURNS vector
    AS 'MODULE_PATHNAME', 'vector_avg_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE AGGREGATE avg(vector) (
    SFUNC = vector_accum,
    STYPE = double precision[],
    FINALFUNC = vector_avg,
    COMBINEFUNC = vector_combine,
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

COMMENT ON ACCESS METHOD faiss IS 'FAISS index access method';

-- Support function 1 of an operator class returns the code of its metric.

CREATE FUNCTION vekter_metric_l2() RETURNS integer
    AS 'MODULE_PATHNAME', 'vekter_metric_l2_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vekter_metric_ip() RETURNS integer
    AS 'MODULE_PATHNAME', 'vekter_metric_ip_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vekter_metric_cosine() RETURNS integer
    AS 'MODULE_PATHNAME', 'vekter_metric_cosine_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION vekter_metric_l1() RETURNS integer
    AS 'MODULE_PATHNAME', 'vekter_metric_l1_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

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

-- knn_join() borrows the view of COPY, whose command is never NULL.
CREATE VIEW vekter_join_progress AS
    SELECT p.pid, p.datname, p.relid::regclass AS left_table, p.tuples_processed AS rows_done,
           p.tuples_excluded AS rows_without_vector, nullif(c.reltuples, -1)::bigint AS rows_estimated
      FROM pg_catalog.pg_stat_progress_copy p
      LEFT JOIN pg_catalog.pg_class c ON c.oid = p.relid AND p.datname = pg_catalog.current_database()
     WHERE p.command IS NULL AND p.relid <> 0;

GRANT SELECT ON vekter_join_progress TO PUBLIC;

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
