"""ALTER EXTENSION UPDATE: from each version whose script is kept in upgrade/."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from data import REPOSITORY, clustered, copy_vectors
from oracle import assert_same_answer

SCRIPTS = Path(__file__).parent / "upgrade"
VERSIONS = sorted(re.search(r"--(.*)\.sql", script.name)[1] for script in SCRIPTS.glob("vekter--*.sql"))
CURRENT = re.search(r"default_version = '(.*)'", (REPOSITORY / "vekter.control").read_text())[1]
VECTORS = clustered(600, 8, seed=41)
BASE, QUERY = VECTORS[:500], VECTORS[-1]

# Everything that a script decides of an object, in words that hold in any database.
OBJECTS = """
SELECT kind, identity, obj_description(objid, kind),
       CASE kind
       WHEN 'pg_proc' THEN (SELECT CASE prokind WHEN 'a' THEN
               (SELECT concat_ws(' ', aggtransfn, aggfinalfn, aggcombinefn, aggtranstype::regtype, agginitval,
                                 proparallel) FROM pg_aggregate WHERE aggfnoid = p.oid)
               ELSE concat_ws(' ', pg_get_functiondef(p.oid), prosupport, proacl) END FROM pg_proc p WHERE oid = objid)
       WHEN 'pg_type' THEN (SELECT concat_ws(' ', typlen, typstorage, typinput, typoutput, typreceive, typsend, typmodin,
                                             typanalyze, typsubscript) FROM pg_type WHERE oid = objid)
       WHEN 'pg_operator' THEN (SELECT concat_ws(' ', oprcode, oprcom::regoperator, oprnegate::regoperator, oprrest,
                                                 oprjoin, oprcanhash, oprcanmerge) FROM pg_operator WHERE oid = objid)
       WHEN 'pg_cast' THEN (SELECT concat_ws(' ', castfunc::regprocedure, castcontext, castmethod)
                              FROM pg_cast WHERE oid = objid)
       WHEN 'pg_opclass' THEN (SELECT concat_ws(' ', opcdefault, opcintype::regtype,
               (SELECT string_agg(concat_ws(' ', amopstrategy, amopopr::regoperator, amoppurpose), ','
                                  ORDER BY amopstrategy) FROM pg_amop WHERE amopfamily = opcfamily),
               (SELECT string_agg(concat_ws(' ', amprocnum, amproc), ',' ORDER BY amprocnum)
                  FROM pg_amproc WHERE amprocfamily = opcfamily)) FROM pg_opclass WHERE oid = objid)
       END
  FROM pg_depend d
       CROSS JOIN LATERAL (SELECT d.classid::regclass::text AS kind) k
       CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
 WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'vekter')
 ORDER BY kind, identity
"""


@pytest.fixture(scope="module", autouse=True)
def old_scripts():
    """The server finds the scripts of old versions, while these tests run."""
    pg_config = os.environ.get("PG_CONFIG", "pg_config")
    found = subprocess.run([pg_config, "--sharedir"], check=True, capture_output=True, text=True)
    folder = Path(found.stdout.strip()) / "extension"
    copies = [Path(shutil.copy(script, folder)) for script in SCRIPTS.glob("*.sql")]
    yield
    for copy in copies:
        copy.unlink(missing_ok=True)


@pytest.fixture(params=VERSIONS)
def old(request, cluster):
    """A connection to a database with the extension in an old version; by this library."""
    name = f"from_{request.param.replace('.', '_')}"
    cluster.execute(f"CREATE DATABASE {name}")
    with cluster.connect(name) as connection:
        connection.execute(f"CREATE EXTENSION vekter VERSION '{request.param}'")
        yield connection
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_an_update_leaves_the_objects_of_a_new_install(old, db):
    old.execute("ALTER EXTENSION vekter UPDATE")
    assert old.execute("SELECT extversion FROM pg_extension WHERE extname = 'vekter'").fetchall() == [(CURRENT,)]
    expected = db.execute(OBJECTS).fetchall()
    assert len(expected) > 100
    assert old.execute(OBJECTS).fetchall() == expected


def test_tables_views_and_indexes_of_an_old_version_answer_before_and_after_an_update(old):
    old.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector(8))")
    copy_vectors(old, "items", BASE)
    old.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    old.execute("CREATE VIEW nearest AS SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM items "
                "WHERE id = 7) LIMIT 5")
    old.execute("CREATE VIEW middle AS SELECT avg(embedding) FROM items")
    before = [old.execute(query).fetchall() for query in ("SELECT array_agg(id) FROM nearest", "TABLE middle")]
    assert_same_answer(old, "items", QUERY, index="built")

    old.execute("ALTER EXTENSION vekter UPDATE")
    assert [old.execute(query).fetchall()
            for query in ("SELECT array_agg(id) FROM nearest", "TABLE middle")] == before
    assert_same_answer(old, "items", QUERY, index="built")
    copy_vectors(old, "items", VECTORS[500:-1], ids=range(500, 599))
    assert_same_answer(old, "items", QUERY, index="built")
    assert old.execute("SELECT * FROM vekter_check('built', true)").fetchall() == []


def test_an_update_of_an_extension_in_a_schema_of_its_own_finds_its_objects(cluster):
    cluster.execute("CREATE DATABASE apart")
    with cluster.connect("apart") as connection:
        connection.execute("CREATE SCHEMA vekter")
        connection.execute(f"CREATE EXTENSION vekter SCHEMA vekter VERSION '{VERSIONS[0]}'")
        connection.execute("ALTER EXTENSION vekter UPDATE")
        assert connection.execute("SELECT vekter.json_to_vector('[1,2]', -1, false)::text").fetchall() == [("[1,2]",)]


def test_every_file_that_names_the_version_names_the_same():
    cargo = re.search(r'^version = "(.*)"', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)[1]
    beside = re.search(r"default_version = '(.*)'", (REPOSITORY / "vekter_pgvector.control").read_text())[1]
    meta = json.loads((REPOSITORY / "META.json").read_text())
    named = {cargo, beside, meta["version"], *(extension["version"] for extension in meta["provides"].values())}
    assert named == {CURRENT}
    assert f"({CURRENT})" in (REPOSITORY / "CHANGELOG.md").read_text() or \
        f"## {CURRENT}" in (REPOSITORY / "CHANGELOG.md").read_text()
