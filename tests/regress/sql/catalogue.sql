-- What the catalogue says of the type, object by object: names, arguments, volatility, strictness, parallel safety,
-- cast contexts, commutators, estimators, operator classes, aggregates.
\set SHOW_CONTEXT never
SELECT typname, typlen, typbyval, typcategory, typispreferred, typdelim, typelem, typalign, typstorage, typtypmod, typcollation,
       typinput, typoutput, typreceive, typsend, typmodin, typmodout, typanalyze, typsubscript
FROM pg_type WHERE oid = 'vector'::regtype \gx
-- v: volatility, immutable but for the one that ANALYZE calls; s: strict; p: parallel safety
SELECT p.oid::regprocedure AS function, prorettype::regtype AS result, provolatile AS v, proisstrict AS s, proparallel AS p,
       proleakproof AS leakproof, procost AS cost
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'vekter'
WHERE prokind = 'f' AND p.proname !~ '^(vekter|faiss|knn)'
ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT castsource::regtype, casttarget::regtype, castcontext, castmethod, castfunc::regprocedure FROM pg_cast
WHERE 'vector'::regtype IN (castsource, casttarget)
ORDER BY castsource::regtype::text COLLATE "C", casttarget::regtype::text COLLATE "C";
SELECT o.oid::regoperator AS operator, oprresult::regtype AS result, oprcode AS function, oprcom::regoper AS commutator,
       oprnegate::regoper AS negator, oprrest AS restrict, oprjoin AS join, oprcanhash AS hashes, oprcanmerge AS merges
FROM pg_operator o WHERE oprleft = 'vector'::regtype
ORDER BY oprname COLLATE "C";
SELECT aggfnoid::regprocedure AS aggregate, aggtransfn AS transition, aggtranstype::regtype AS state, agginitval AS initial,
       aggcombinefn AS combine, aggfinalfn AS final, aggsortop::regoper AS sort, proparallel AS p
FROM pg_aggregate JOIN pg_proc p ON p.oid = aggfnoid WHERE 'vector'::regtype = ANY (proargtypes)
ORDER BY aggfnoid::regprocedure::text COLLATE "C";
SELECT amname, opcname, opcdefault AS default, amopstrategy AS strategy, amopopr::regoperator AS operator, amoppurpose AS purpose
FROM pg_opclass JOIN pg_am a ON a.oid = opcmethod LEFT JOIN pg_amop ON amopfamily = opcfamily
WHERE opcintype = 'vector'::regtype AND amname IN ('btree', 'hash') ORDER BY 1, 2, 4;
SELECT amname, opcname, amprocnum AS number, amproc::regprocedure AS function
FROM pg_opclass JOIN pg_am a ON a.oid = opcmethod JOIN pg_amproc ON amprocfamily = opcfamily
WHERE opcintype = 'vector'::regtype AND amname IN ('btree', 'hash') ORDER BY 1, 2, 3;
-- superusers install it, into any one schema, and can move it
SELECT superuser, trusted, relocatable, schema, requires FROM pg_available_extension_versions
WHERE name = 'vekter' AND version = (SELECT default_version FROM pg_available_extensions WHERE name = 'vekter');
