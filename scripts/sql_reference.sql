-- Writes docs/reference.md from the catalogue of the database that psql is connected to. `make docs` runs it.
-- Functions whose description begins with Supports or Implements are not for users to call, and are left out.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vekter;
-- pgvector has all four distances since 0.7.
SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector'
                  AND string_to_array(default_version, '.')::int[] >= '{0,7}') AS has_pgvector \gset
\if :has_pgvector
CREATE SCHEMA pgvector;
CREATE EXTENSION vector SCHEMA pgvector;
CREATE EXTENSION vekter_pgvector;
\endif
-- A session has the settings of a library when that is loaded.
LOAD '$libdir/vekter';

CREATE TEMP VIEW members AS
SELECT d.classid, d.objid, e.extname AS extension,
       replace(obj_description(d.objid, d.classid::regclass::name), '|', '\|') AS description
  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname ~ '^vekter';

CREATE TEMP VIEW routines AS
SELECT p.oid, p.proname::text COLLATE "C" AS name, p.prokind AS kind, m.extension, m.description,
       format('%s(%s)', p.proname, inputs) AS call,
       CASE WHEN outputs IS NOT NULL THEN format('TABLE (%s)', outputs) ELSE pg_get_function_result(p.oid) END AS result
  FROM members m
  JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
 CROSS JOIN LATERAL (
    SELECT string_agg(concat_ws(' ', quote_ident(nullif(a.name, '')), format_type(a.type, NULL), 'DEFAULT '
                          || regexp_replace(pg_get_function_arg_default(p.oid, a.no::int), '::\w[\w ]*$', '')),
                      ', ' ORDER BY a.no) FILTER (WHERE coalesce(a.mode, 'i') = 'i') AS inputs,
           string_agg(concat_ws(' ', quote_ident(a.name), format_type(a.type, NULL)), ', ' ORDER BY a.no)
               FILTER (WHERE a.mode IN ('o', 't')) AS outputs
      FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes)
           WITH ORDINALITY a (type, name, mode, no)) arguments
 WHERE m.description !~ '^(Supports|Implements) ';

-- The functions of one heading, each as a Markdown section. Those that are not about the type have one in docs/sql.md
-- too.
CREATE FUNCTION pg_temp.sections(of_extension text, name_pattern text, of_kind text) RETURNS SETOF text LANGUAGE sql
AS $$
    SELECT format(E'\n### %s\n\n%s', name, string_agg(
               format(E'`%s%s`\n\n%s', call, ' RETURNS ' || result, description), E'\n\n' ORDER BY call COLLATE "C"))
           || CASE WHEN of_extension = 'vekter' AND name ~ '^(knn|vekter_)'
                   THEN format(E'\n\n[More](sql.md#%s)', name) ELSE '' END
      FROM routines
     WHERE extension = of_extension AND name ~ name_pattern AND kind::text ~ of_kind
     GROUP BY name ORDER BY name
$$;
CREATE FUNCTION pg_temp.casts(of_extension text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT E'| from | to | applied | |\n|---|---|---|---|' UNION ALL (
    SELECT format('| `%s` | `%s` | %s | %s |', format_type(c.castsource, NULL), format_type(c.casttarget, NULL),
                  CASE c.castcontext WHEN 'i' THEN 'implicitly' WHEN 'a' THEN 'in assignments and explicitly'
                                     ELSE 'explicitly' END, m.description)
      FROM members m JOIN pg_cast c ON m.classid = 'pg_cast'::regclass AND c.oid = m.objid
     WHERE m.extension = of_extension ORDER BY c.oid)
$$;
CREATE FUNCTION pg_temp.operator_classes(of_extension text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT E'| access method | operator class | type | default | |\n|---|---|---|---|---|' UNION ALL (
    SELECT format('| `%s` | `%s` | `%s` | %s | %s |', a.amname, c.opcname, format_type(c.opcintype, NULL),
                  CASE WHEN c.opcdefault THEN 'yes' ELSE '' END, m.description)
      FROM members m
      JOIN pg_opclass c ON m.classid = 'pg_opclass'::regclass AND c.oid = m.objid
      JOIN pg_am a ON a.oid = c.opcmethod
     WHERE m.extension = of_extension ORDER BY a.amname::text COLLATE "C", c.oid)
$$;

\qecho '# SQL reference\n'
\qecho '[Functions that search](#functions-that-search) · [Functions for indexes and clusters](#functions-for-indexes-and-clusters) ·'
\qecho '[Functions of vectors](#functions-of-vectors) · [Aggregates](#aggregates) · [Operators](#operators) · [Casts](#casts) ·'
\qecho '[The type and the access method](#the-type-and-the-access-method) · [Operator classes](#operator-classes) ·'
\qecho '[Settings](#settings) · [With pgvector](#with-pgvector)\n'
\qecho 'What the extensions `vekter` and `vekter_pgvector` offer to statements. `make docs` makes this page from the catalogue;'
\qecho 'psql shows the same descriptions: `\\df+ knn`, `\\do <-> vector`, `\\dC+ vector`. [SQL](sql.md) explains searches, indexes'
\qecho 'and [their options](sql.md#index-options) by task, [The type](type.md) the type `vector`.'
\qecho '\n## Functions that search'
SELECT pg_temp.sections('vekter', '^(knn|vekter_join)', 'f');
\qecho '\n## Functions for indexes and clusters'
SELECT pg_temp.sections('vekter', '^vekter_(?!join)', 'f');
\qecho '\n## Functions of vectors'
SELECT pg_temp.sections('vekter', '^(?!knn|vekter_)', 'f');
\qecho '\n## Aggregates'
SELECT pg_temp.sections('vekter', '', 'a');
\qecho '\n## Operators\n\n| left | operator | right | result | |\n|---|---|---|---|---|'
SELECT format('| `%s` | `%s` | `%s` | `%s` | %s |', format_type(o.oprleft, NULL), replace(o.oprname, '|', '\|'),
              format_type(o.oprright, NULL), format_type(o.oprresult, NULL), m.description)
  FROM members m JOIN pg_operator o ON m.classid = 'pg_operator'::regclass AND o.oid = m.objid ORDER BY o.oid;
\qecho '\n## Casts\n'
SELECT pg_temp.casts('vekter');
\qecho '\n## The type and the access method\n'
SELECT format('* `%s`: %s', name, description)
  FROM (SELECT description, regexp_replace((pg_identify_object(classid, objid, 0)).identity, '^.*\.', '') AS name
          FROM members
         WHERE classid = 'pg_am'::regclass
            OR classid = 'pg_type'::regclass AND objid IN (SELECT oid FROM pg_type WHERE typcategory <> 'A')) objects
 ORDER BY name;
\qecho '\n## Operator classes\n'
SELECT pg_temp.operator_classes('vekter');
\qecho '\n## Settings\n\n| setting | default | values | set by | |\n|---|---|---|---|---|'
SELECT format('| `%s` | %s | %s | %s | %s |', name,
              concat_ws(' ', nullif(boot_val, ''), CASE WHEN boot_val <> '-1' THEN unit END),
              coalesce(array_to_string(enumvals, ', '), min_val || ' to ' || max_val,
                       CASE vartype WHEN 'bool' THEN 'on, off' END),
              CASE context WHEN 'user' THEN 'everyone' ELSE 'superusers' END, concat_ws(' ', short_desc, extra_desc))
  FROM pg_settings
 WHERE name ~ '^vekter\.' AND name NOT IN ('vekter.failpoint', 'vekter.longest_pause') ORDER BY name COLLATE "C";
\if :has_pgvector
\qecho '\n## With pgvector\n\nThe extension `vekter_pgvector`; here, pgvector is in a schema `pgvector`.'
SELECT pg_temp.sections('vekter_pgvector', '', '');
\qecho
SELECT pg_temp.operator_classes('vekter_pgvector');
\qecho
SELECT pg_temp.casts('vekter_pgvector');
\endif
