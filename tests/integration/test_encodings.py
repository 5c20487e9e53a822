"""Databases of other encodings than UTF-8: names and texts beyond ASCII go in and come out as they are, everywhere."""

import psycopg
import pytest

from oracle import settings
from upkeep import wait_until, workers

# Database encoding: encoding of the client, a word. SQL_ASCII has any bytes: here some that are no UTF-8.
ENCODINGS = {
    "UTF8": ("UTF8", "vé索"),
    "LATIN1": ("UTF8", "véÿ"),
    "EUC_JP": ("UTF8", "索引ｱ"),
    "SQL_ASCII": ("LATIN1", "v\xe9\xff\x80"),
}


@pytest.fixture(scope="module", params=ENCODINGS)
def there(request, cluster):
    """(connection, word): a database of one encoding with a table of 200 rows, all of whose names have the word."""
    encoding = request.param
    client, word = ENCODINGS[encoding]
    name = f"in_{encoding.lower()}"
    cluster.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    with cluster.connect(name, client_encoding=client) as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f'CREATE TABLE "{word}t" ("{word}i" bigint PRIMARY KEY, "{word}k" text, "{word}v" vector(2))')
        conn.execute(f"""INSERT INTO "{word}t" SELECT n, CASE n % 2 WHEN 0 THEN '{word}' ELSE 'odd' END,
                         ARRAY[n, 0]::real[]::vector FROM generate_series(1, 200) n""")
        conn.execute(f"SELECT vekter_create_index('\"{word}t\"', '{word}i', '{word}v', name => '{word}x')")
        yield conn, word
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


def texts(conn, sql):
    """What an error says: message, detail and hint in one."""
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(sql)
    diag = caught.value.diag
    assert diag.sqlstate != "XX000", diag.message_primary
    return " | ".join(filter(None, [diag.message_primary, diag.message_detail, diag.message_hint]))


def test_index_is_made_renamed_rebuilt_and_checked(there):
    conn, word = there
    chosen = conn.execute(f"SELECT vekter_create_index('\"{word}t\"', '{word}i', '{word}v', 'IVF4,Flat')::text")
    assert chosen.fetchone() == (f'"{word}t_{word}v_idx"',)
    conn.execute(f'ALTER INDEX "{word}t_{word}v_idx" RENAME TO "{word}y"')
    conn.execute(f'REINDEX INDEX "{word}y"')
    conn.execute(f'DELETE FROM "{word}t" WHERE "{word}i" = 200')
    conn.execute(f'VACUUM "{word}t"')
    conn.execute(f"SELECT vekter_compact('\"{word}y\"')")
    assert conn.execute(f"SELECT * FROM vekter_check('\"{word}y\"', true)").fetchall() == []
    assert conn.execute(f"SELECT factory, rows_indexed FROM vekter_index_stats('\"{word}y\"')").fetchone() == \
        ("IVF4,Flat", 199)
    conn.execute(f'DROP INDEX "{word}y"')
    conn.execute(f'CREATE INDEX ON "{word}t" USING faiss ("{word}v") INCLUDE ("{word}i") '
                 f'WHERE "{word}k" = \'{word}\'')
    conn.execute(f'DROP INDEX "{word}t_{word}v_{word}i_idx"')


def test_filters_with_names_and_literals(there):
    conn, word = there
    condition = f"format('%I = %L', '{word}k', '{word}')"
    table = f"'\"{word}t\"'"
    near = [(2, 1.0), (4, 3.0), (6, 5.0)]
    for call in (f"knn({table}, '[1,0]', 3, filter => {condition})",
                 f"knn_within({table}, '[1,0]', 100, 3, filter => {condition})"):
        assert conn.execute(f"SELECT * FROM {call}").fetchall() == near
    assert conn.execute(f"SELECT id FROM knn_like({table}, 1, 2, filter => {condition})").fetchall() == [(2,), (4,)]
    rows = conn.execute(f"""SELECT (item)."{word}i", (item)."{word}k"
                            FROM knn_rows(NULL::"{word}t", '[1,0]', 2, filter => {condition})""").fetchall()
    assert rows == [(2, word), (4, word)] or rows == [(2, word.encode("latin1")), (4, word.encode("latin1"))]
    assert conn.execute(f"SELECT count(*) FROM knn({table}, '[1,0]', 9, search => '', filter => '\"{word}k\" = $${word}"
                        f"?$$')").fetchone() == (0,)


def test_batches_joins_and_clusters_with_names(there):
    conn, word = there
    table = f"'\"{word}t\"'"
    assert conn.execute(f"SELECT id FROM knn_batch({table}, ARRAY['[5,0]','[7,0]']::vector[], 1)").fetchall() == \
        [(5,), (7,)]
    assert conn.execute(f"SELECT count(*), count(*) FILTER (WHERE left_id = id) FROM knn_join({table}, '{word}i', "
                        f"'{word}v', {table}, 1)").fetchone() in [(200, 200), (199, 199)]
    count, = conn.execute(f"SELECT count(*) FROM vekter_kmeans({table}, '{word}i', '{word}v', 3)").fetchone()
    assert count in (199, 200)
    assert conn.execute(f"SELECT count(*) FROM vekter_kmeans_centroids({table}, '{word}i', '{word}v', 3)"
                        ).fetchone() == (3,)
    assert conn.execute(f"SELECT vekter_recall({table}, 5, 5)").fetchone() == (1.0,)
    assert conn.execute(f"SELECT decoded FROM vekter_reconstruct({table}, 5)").fetchone()[0] == "[5,0]"


# What a call says in its error.
ERRORS = {
    "another table has no index": (
        'SELECT knn(\'"{w}n"\', \'[1]\')', 'table "{w}n" has no faiss index'),
    "no such column": (
        'SELECT vekter_create_index(\'"{w}t"\', \'{w}?\', \'{w}v\')',
        'column "{w}?" of relation "{w}t" does not exist'),
    "column of another type": (
        'SELECT vekter_create_index(\'"{w}t"\', \'{w}k\', \'{w}v\')', 'column "{w}k" is not of an integer type'),
    "name is taken, as PostgreSQL says it": (
        'SELECT vekter_create_index(\'"{w}t"\', \'{w}i\', \'{w}v\', name => \'{w}x\')', '"{w}x" already exists'),
    "metric": (
        'SELECT vekter_create_index(\'"{w}t"\', \'{w}i\', \'{w}v\', metric => \'{w}\')', 'unknown metric "{w}"'),
    "factory": (
        'SELECT vekter_create_index(\'"{w}t"\', \'{w}i\', \'{w}v\', \'{w}\')', 'contains "{r}"'),
    "factory of CREATE INDEX": (
        'CREATE INDEX ON "{w}t" USING faiss ("{w}v") WITH (factory = \'{w}\')', 'contains "{r}"'),
    "search of an index": (
        'ALTER INDEX "{w}x" SET (search = \'{w}=1\')', '{w}'),
    "search of a call": (
        'SELECT knn(\'"{w}t"\', \'[1,0]\', search => \'{w}=1\')', '{w}'),
    "long name of a parameter": (
        'SELECT knn(\'"{w}t"\', \'[1,0]\', search => repeat(\'x\', 59) || repeat(\'{w}\', 9) || \'=1\')', '..."'),
    "setting": (
        'SET vekter.search = \'{w}=1\'', '{w}'),
    "column in a filter": (
        'SELECT knn(\'"{w}t"\', \'[1,0]\', filter => \'"{w}?" = 1\')', 'column "{w}?" does not exist | The filter '
        'is a condition on the columns of public."{w}t"'),
    "value in a filter": (
        'SELECT knn(\'"{w}t"\', \'[1,0]\', filter => \'"{w}k"::int = 1\')', 'type integer: "'),
    "file to read": (
        'SELECT vekter_import(\'"{w}t"\', \'{w}i\', \'{w}v\', \'/nowhere/{w}\'::text)', '"/nowhere/{w}"'),
    "file to write": (
        'SELECT vekter_export(\'"{w}t"\', \'{w}\')', '"{w}" is not an absolute path'),
    "included column": (
        'CREATE INDEX ON "{w}t" USING faiss ("{w}v") INCLUDE ("{w}k")', 'included column "{w}k"'),
    "expression of an index": (
        'CREATE INDEX ON "{w}t" USING faiss ((("{w}k"::vector)::vector(2)))', 'type vector: "'),
    "left column of a join": (
        'SELECT knn_join(\'"{w}t"\', \'{w}?\', \'{w}v\', \'"{w}t"\')', 'column "{w}?" of relation "{w}t"'),
    "column of clusters": (
        'SELECT vekter_kmeans(\'"{w}t"\', \'{w}k\', \'{w}v\', 2)', 'column "{w}k" is not of an integer type'),
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors_name_it_as_it_is(there, what):
    conn, word = there
    conn.execute(f'CREATE TABLE IF NOT EXISTS "{word}n" (v vector(1))')
    sql, expected = (part.replace("{w}", word).replace("{r}", word.lstrip("v")) for part in ERRORS[what])
    said = texts(conn, sql)
    assert expected in said
    assert "\ufffd" not in said and "?" not in said.replace(word + "?", "")


def test_error_that_sql_catches_has_its_bytes(there):
    conn, word = there
    caught = []
    conn.add_notice_handler(lambda notice: caught.append(notice.message_primary))
    conn.execute(f"""DO $$ BEGIN PERFORM knn('"{word}t"', '[1,0]', filter => '"{word}?"');
                     EXCEPTION WHEN undefined_column THEN RAISE NOTICE '%', SQLERRM; END $$""")
    assert caught == [f'column "{word}?" does not exist']


def test_files_have_the_name_that_was_given(there, cluster):
    conn, word = there
    path = f"{cluster.folder}/{word}.faiss"
    assert conn.execute(f"SELECT vekter_export('\"{word}t\"', '{path}')").fetchone()[0] in (199, 200)
    encoding = conn.execute("SELECT current_setting('server_encoding')").fetchone()[0]
    codec = {"SQL_ASCII": "latin1"}.get(_str(encoding), _str(encoding).lower())
    names = [name for name in (cluster.folder).iterdir() if bytes(name).endswith(".faiss".encode())]
    assert f"{word}.faiss".encode(codec) in [bytes(name).rsplit(b"/")[-1] for name in names]
    conn.execute(f"SELECT vekter_import('\"{word}t\"', '{word}i', '{word}v', '{path}', name => '{word}z')")
    conn.execute(f'DROP INDEX "{word}z"')


def test_operator_class_is_named_as_it_is(there):
    conn, word = there
    heard = []
    conn.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    conn.execute(f'CREATE OPERATOR CLASS "{word}c" FOR TYPE vector USING faiss AS OPERATOR 1 <-> (vector, vector) '
                 'FOR ORDER BY float_ops')
    conn.execute(f"SELECT amvalidate(oid) FROM pg_opclass WHERE opcname = '{word}c'")
    assert heard == [f'operator class "{word}c" of access method faiss lacks support function 1']
    conn.execute(f'DROP OPERATOR FAMILY "{word}c" USING faiss')


def test_worker_shows_the_index_it_is_at(there):
    conn, word = there
    with settings(conn, **{"vekter.delta_limit": 64}):
        conn.execute(f"""INSERT INTO "{word}t" SELECT n, 'late', ARRAY[n, 1]::real[]::vector
                         FROM generate_series(1001, 8000) n""")
    shown = wait_until(lambda: [query for _, query in workers(conn) if query], "the worker to show what it is at")
    assert _str(shown[0]) == f'compacting index "{word}x"'
    conn.execute(f'DELETE FROM "{word}t" WHERE "{word}i" > 1000')


def _str(value):
    """psycopg gives text of SQL_ASCII as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value
