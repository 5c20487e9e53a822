\echo Use "ALTER EXTENSION vekter UPDATE TO '0.2.0'" to load this file. \quit

-- Leaves the objects that sql/vekter.sql makes (tests/integration/test_upgrade.py).

-- Casts.

CREATE FUNCTION array_to_vector(smallint[], integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION array_to_vector(bigint[], integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION json_to_vector(json, integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'json_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE CAST (smallint[] AS vector)
    WITH FUNCTION array_to_vector(smallint[], integer, boolean) AS ASSIGNMENT;

CREATE CAST (bigint[] AS vector)
    WITH FUNCTION array_to_vector(bigint[], integer, boolean) AS ASSIGNMENT;

CREATE CAST (json AS vector)
    WITH FUNCTION json_to_vector(json, integer, boolean);

-- Not by a function: row_to_json() and its like would call it, and no longer give a vector as text, as with pgvector.
CREATE CAST (vector AS json)
    WITH INOUT;

-- Distances: the planner learns what one to a long vector costs.

CREATE FUNCTION vector_distance_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

ALTER FUNCTION l2_distance(vector, vector) SUPPORT vector_distance_support;
ALTER FUNCTION inner_product(vector, vector) SUPPORT vector_distance_support;
ALTER FUNCTION cosine_distance(vector, vector) SUPPORT vector_distance_support;
ALTER FUNCTION l1_distance(vector, vector) SUPPORT vector_distance_support;
ALTER FUNCTION vector_l2_squared_distance(vector, vector) SUPPORT vector_distance_support;
ALTER FUNCTION vector_negative_inner_product(vector, vector) SUPPORT vector_distance_support;
ALTER FUNCTION vector_spherical_distance(vector, vector) SUPPORT vector_distance_support;

-- Aggregates.

-- As vector_combine, which refuses two states of no rows as pgvector 0.8.6's does. With that one, avg() fails on a
-- table that several processes scan and in which none finds a row (pgvector has it so up to 0.8.6).
CREATE FUNCTION vector_avg_combine(double precision[], double precision[]) RETURNS double precision[]
    AS 'MODULE_PATHNAME', 'vector_avg_combine_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OR REPLACE AGGREGATE avg(vector) (
    SFUNC = vector_accum,
    STYPE = double precision[],
    FINALFUNC = vector_avg,
    COMBINEFUNC = vector_avg_combine,
    INITCOND = '{0}',
    PARALLEL = SAFE
);

-- Operator classes.

CREATE FUNCTION vekter_value_half() RETURNS integer
    AS 'MODULE_PATHNAME', 'vekter_value_half_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

-- Functions.

-- A view, in 0.1.0.
DROP VIEW vekter_join_progress;

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

-- Nothing but the indexes may answer the queries that are timed. The costs of what is disabled would have PostgreSQL
-- compile the plans.
CREATE FUNCTION vekter_compare_indexes(indexes regclass[], k integer DEFAULT 10, sample integer DEFAULT 100)
    RETURNS TABLE (
        index regclass, access_method text, recall double precision, milliseconds double precision, bytes bigint
    )
    AS 'MODULE_PATHNAME', 'vekter_compare_indexes_wrapper' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 2
    SET enable_seqscan = off SET enable_sort = off SET jit = off;

-- Descriptions.

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
