\echo Use "CREATE EXTENSION vekter_pgvector" to load this file. \quit

-- pgvector's vector has the layout of vekter's, and a support function says of operator classes for halfvec that its
-- elements are 16-bit floats; so a faiss index reads columns of both as they are. Operator classes have pgvector's
-- names and live in pgvector's schema, where the application's search_path finds them. Both extensions can be in any
-- schema, so names are put together here.
DO $$
DECLARE
    theirs text := (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'vector');
    ours text := (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'vekter');
    class record;
BEGIN
    -- knn() and the other functions take vectors of all types.
    EXECUTE format('CREATE CAST (%1$s.vector AS %2$s.vector) WITHOUT FUNCTION AS IMPLICIT', theirs, ours);
    EXECUTE format('COMMENT ON CAST (%1$s.vector AS %2$s.vector) IS %3$L', theirs, ours,
        'Gives pgvector''s vector to the functions of vekter, unchanged.');
    IF to_regtype(theirs || '.halfvec') IS NOT NULL THEN
        EXECUTE format(
            'CREATE FUNCTION @extschema@.vekter_halfvec_to_vector(%1$s.halfvec, integer, boolean) RETURNS %2$s.vector '
            'AS ''$libdir/vekter'', ''halfvec_to_vector_wrapper'' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE', theirs, ours);
        EXECUTE format(
            'CREATE CAST (%1$s.halfvec AS %2$s.vector) '
            'WITH FUNCTION @extschema@.vekter_halfvec_to_vector(%1$s.halfvec, integer, boolean) AS IMPLICIT', theirs, ours);
        EXECUTE format(
            'COMMENT ON FUNCTION @extschema@.vekter_halfvec_to_vector(%1$s.halfvec, integer, boolean) IS %2$L', theirs,
            'Supports the cast of pgvector''s halfvec to vekter''s vector.');
        EXECUTE format('COMMENT ON CAST (%1$s.halfvec AS %2$s.vector) IS %3$L', theirs, ours,
            'Gives pgvector''s halfvec to the functions of vekter, as floats of the same values.');
    END IF;
    FOR class IN
        SELECT type, metric, operator, CASE metric WHEN 'l2' THEN 'DEFAULT' ELSE '' END AS is_default,
               CASE type WHEN 'halfvec' THEN format(', FUNCTION 2 %s.vekter_value_half()', ours) ELSE '' END AS kind
          FROM (VALUES ('vector'), ('halfvec')) AS t (type),
               (VALUES ('l2', '<->'), ('ip', '<#>'), ('cosine', '<=>'), ('l1', '<+>')) AS v (metric, operator)
         -- pgvector has halfvec and <+> since 0.7. The name of an operator for a type that there is not is an error.
         WHERE CASE WHEN to_regtype(theirs || '.' || type) IS NOT NULL
                    THEN to_regoperator(format('%1$s.%2$s(%1$s.%3$s, %1$s.%3$s)', theirs, operator, type)) IS NOT NULL
                    ELSE false END
    LOOP
        EXECUTE format(
            'CREATE OPERATOR CLASS %1$s.%6$s_%3$s_ops %5$s FOR TYPE %1$s.%6$s USING faiss AS '
            'OPERATOR 1 %1$s.%4$s (%1$s.%6$s, %1$s.%6$s) FOR ORDER BY pg_catalog.float_ops, '
            'FUNCTION 1 %2$s.vekter_metric_%3$s()%7$s',
            theirs, ours, class.metric, class.operator, class.is_default, class.type, class.kind);
        EXECUTE format('COMMENT ON OPERATOR CLASS %s.%s_%s_ops USING faiss IS %L', theirs, class.type, class.metric,
            format('Serves ORDER BY with %s of pgvector''s %s.', class.operator, class.type));
    END LOOP;
END $$;

-- Of the index that replaces one of this name. A name has at most 63 bytes.
CREATE FUNCTION vekter_replacement_name(replaced name) RETURNS name LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT pg_catalog.left(replaced, length) || '_faiss' FROM pg_catalog.generate_series(57, 1, -1) length
         WHERE pg_catalog.octet_length(pg_catalog.left(replaced, length)) <= 57 LIMIT 1);

-- Each row is a statement: PostgreSQL lets no function run CREATE INDEX CONCURRENTLY itself. What an interrupted run
-- left is known by the names of its indexes, and is not made again.
CREATE FUNCTION vekter_replace_pgvector_indexes(
    "table" regclass, factory text DEFAULT 'auto', drop_old boolean DEFAULT false
)
    RETURNS TABLE (statement text) LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE ROWS 10
AS $$
DECLARE
    ours text := (SELECT extnamespace::pg_catalog.regnamespace FROM pg_catalog.pg_extension WHERE extname = 'vekter');
    old record;
    child record;
    new_is_valid boolean;
BEGIN
    -- Indexes of partitions come before that of their parent, which they are attached to.
    FOR old IN
        SELECT i.indexrelid AS oid, c.relname, c.relkind = 'I' AS is_partitioned, n.nspname,
               pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
               pg_catalog.format('%I.%I', tn.nspname, t.relname) AS of_table,
               @extschema@.vekter_replacement_name(c.relname) AS new_relname,
               pg_catalog.pg_get_indexdef(i.indexrelid, 1, false) AS value, i.indkey[0] = 0 AS is_expression,
               k.opcname, k.opcintype::pg_catalog.regtype AS type,
               (SELECT pg_catalog.format('%I.%I', fn.nspname, f.opcname)
                  FROM pg_catalog.pg_opclass f
                  JOIN pg_catalog.pg_am fa ON fa.oid = f.opcmethod AND fa.amname = 'faiss'
                  JOIN pg_catalog.pg_namespace fn ON fn.oid = f.opcnamespace
                 WHERE f.opcintype = k.opcintype AND f.opcname = k.opcname) AS operator_class,
               pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate,
               (SELECT spcname FROM pg_catalog.pg_tablespace s WHERE s.oid = c.reltablespace) AS spcname,
               EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid) AS has_parent
          FROM (SELECT "table" AS relid, 0 AS level
                UNION SELECT p.relid, p.level FROM pg_catalog.pg_partition_tree("table") p) r
          JOIN pg_catalog.pg_index i ON i.indrelid = r.relid AND i.indisvalid
          JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
          JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
          JOIN pg_catalog.pg_am a ON a.oid = c.relam AND a.amname IN ('hnsw', 'ivfflat')
          JOIN pg_catalog.pg_opclass k ON k.oid = i.indclass[0]
         ORDER BY r.level DESC, c.relname
    LOOP
        IF old.operator_class IS NULL THEN
            RAISE WARNING 'index "%" is not replaced', old.relname
                USING DETAIL = pg_catalog.format('faiss has no operator class %s for type %s.', old.opcname, old.type);
            CONTINUE;
        END IF;
        new_is_valid := (
            SELECT i.indisvalid OR old.is_partitioned FROM pg_catalog.pg_index i
             WHERE i.indexrelid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', old.nspname, old.new_relname)));
        IF NOT new_is_valid THEN
            statement := pg_catalog.format('DROP INDEX CONCURRENTLY %I.%I', old.nspname, old.new_relname);
            RETURN NEXT;
        END IF;
        IF new_is_valid IS NOT true THEN
            statement := pg_catalog.format('CREATE INDEX %s%I ON %s%s USING faiss (%s %s) WITH (factory = %L)%s%s',
                CASE WHEN old.is_partitioned THEN '' ELSE 'CONCURRENTLY ' END, old.new_relname,
                CASE WHEN old.is_partitioned THEN 'ONLY ' ELSE '' END, old.of_table,
                CASE WHEN old.is_expression THEN '(' || old.value || ')' ELSE old.value END, old.operator_class, factory,
                ' TABLESPACE ' || pg_catalog.quote_ident(old.spcname), ' WHERE ' || old.predicate);
            RETURN NEXT;
        END IF;
        IF old.is_partitioned THEN
            FOR child IN
                SELECT n.nspname, @extschema@.vekter_replacement_name(c.relname) AS relname
                  FROM pg_catalog.pg_inherits h
                  JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE h.inhparent = old.oid
                 ORDER BY c.relname
            LOOP
                statement := pg_catalog.format('ALTER INDEX %I.%I ATTACH PARTITION %I.%I',
                    old.nspname, old.new_relname, child.nspname, child.relname);
                RETURN NEXT;
            END LOOP;
        ELSE
            statement := pg_catalog.format('SELECT * FROM %s.vekter_compare_indexes(ARRAY[%L, %L]::pg_catalog.regclass[])',
                ours, old.name, pg_catalog.format('%I.%I', old.nspname, old.new_relname));
            RETURN NEXT;
        END IF;
        IF drop_old AND NOT old.has_parent THEN
            statement := pg_catalog.format('CALL @extschema@.vekter_drop_replaced_index(%L, %L)',
                old.name, pg_catalog.format('%I.%I', old.nspname, old.new_relname));
            RETURN NEXT;
        END IF;
    END LOOP;
END $$;

-- Drops an index if the one in its place finds at least as many of the nearest rows; in a partitioned table if that
-- holds for each partition. The new index gets the old one's name: programs that create an index IF NOT EXISTS, and
-- migrations that drop it, know it by that.
CREATE PROCEDURE vekter_drop_replaced_index(old regclass, new regclass) LANGUAGE plpgsql
AS $$
DECLARE
    ours text := (SELECT extnamespace::pg_catalog.regnamespace FROM pg_catalog.pg_extension WHERE extname = 'vekter');
    old_relname name := (SELECT relname FROM pg_catalog.pg_class WHERE oid = old);
    pair record;
    recalls double precision[];
    renames text[] := '{}';
    rename text;
BEGIN
    FOR pair IN
        SELECT a.indexrelid AS old, c.relname, b.indexrelid AS new,
               (SELECT relname FROM pg_catalog.pg_class WHERE oid = b.indexrelid) AS new_relname
          FROM (SELECT old AS relid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(old) p) o
          JOIN pg_catalog.pg_index a ON a.indexrelid = o.relid
          JOIN pg_catalog.pg_class c ON c.oid = a.indexrelid AND c.relkind = 'i'
          LEFT JOIN (SELECT new AS relid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(new) p) n
          JOIN pg_catalog.pg_index b ON b.indexrelid = n.relid AND b.indisvalid ON b.indrelid = a.indrelid
    LOOP
        IF pair.new IS NOT NULL THEN
            EXECUTE pg_catalog.format('SELECT pg_catalog.array_agg(recall) FROM %s.vekter_compare_indexes($1)', ours)
               INTO recalls USING ARRAY[pair.old, pair.new]::pg_catalog.regclass[];
        END IF;
        -- Without rows there is no recall.
        IF pair.new IS NULL OR recalls[2] < recalls[1] THEN
            RAISE WARNING 'index "%" is kept', pair.relname
                USING DETAIL = CASE WHEN pair.new IS NULL THEN 'No valid index is in its place.' ELSE
                    pg_catalog.format('It finds %s of the nearest rows, and index "%s" %s.', pg_catalog.round(recalls[1]::numeric, 4),
                        pair.new_relname, pg_catalog.round(recalls[2]::numeric, 4)) END;
            RETURN;
        END IF;
        IF pair.new <> new THEN
            renames := renames || pg_catalog.format('ALTER INDEX %s RENAME TO %I', pair.new::regclass, pair.relname);
        END IF;
    END LOOP;
    EXECUTE pg_catalog.format('DROP INDEX %s', old);
    FOREACH rename IN ARRAY renames || pg_catalog.format('ALTER INDEX %s RENAME TO %I', new, old_relname) LOOP
        EXECUTE rename;
    END LOOP;
END $$;

COMMENT ON FUNCTION vekter_replacement_name(name) IS
    'Supports vekter_replace_pgvector_indexes(): returns the name of the faiss index in place of the one of this name.';

COMMENT ON FUNCTION vekter_replace_pgvector_indexes(regclass, text, boolean) IS
    'Returns the statements that replace the hnsw and ivfflat indexes of the table by faiss indexes, for psql''s '
    '\gexec. drop_old adds those that drop the old indexes.';

COMMENT ON PROCEDURE vekter_drop_replaced_index(regclass, regclass) IS
    'Drops the index old, and gives its name to the index new, if that finds at least as many of the nearest rows; else '
    'warns and keeps it.';
