"""A random workload on one table, with a model of what must be in it.

The model is a dictionary of the rows, kept by the test and not by the server: it says what was committed, so that a
search can be held against it even after the server was killed.
"""

import random

import numpy as np

from data import to_text
from oracle import assert_nearest, nearest_sql, with_index, without_index
from upkeep import vacuum_dead_rows


class Workload:
    """Random INSERT, UPDATE, DELETE, VACUUM, ROLLBACK and searches; every search is checked when it is made.

    `rows` is the model of the running transaction, `committed` that of the last commit. Vectors are drawn from a
    small set of points, so that equal rows, equal distances and reused line pointers are frequent.
    """

    STEPS = {"insert": 22, "insert_many": 3, "update": 14, "update_key": 6, "update_hot": 5, "delete": 18,
             "search": 22, "search_all": 3, "vacuum": 3, "begin": 5, "end": 8, "savepoint": 2}

    def __init__(self, conn, seed, dimensions, metric="l2", table="items", most_rows=400, batch=20):
        self.conn, self.dimensions, self.metric, self.table = conn, dimensions, metric, table
        self.most_rows, self.batch = most_rows, batch
        self.random = random.Random(seed)
        self.points = np.random.default_rng(seed).standard_normal((300, dimensions)).astype(np.float32)
        self.committed, self.rows, self.savepoints = {}, {}, []
        self.in_transaction = False
        self.next_id = 0
        self.searches = 0

    def create(self, factory="Flat", kind=""):
        self.conn.execute(f"CREATE {kind} TABLE {self.table} (id bigint, embedding vector({self.dimensions}), "
                          "note int DEFAULT 0) WITH (autovacuum_enabled = off, fillfactor = 70)")
        self.conn.execute(f"CREATE INDEX {self.table}_faiss ON {self.table} "
                          f"USING faiss (embedding vector_{self.metric}_ops) WITH (factory = '{factory}')")

    def run(self, steps):
        names, weights = zip(*self.STEPS.items())
        for name in self.random.choices(names, weights, k=steps):
            getattr(self, name)()

    # -- steps ------------------------------------------------------------------------------------------------------

    def insert(self, count=1):
        if len(self.rows) + count > self.most_rows:
            return self.delete(self.most_rows // 2)
        new = {self.next_id + i: self.random.randrange(len(self.points)) for i in range(count)}
        values = ", ".join(f"({id}, {self.point(p)})" for id, p in new.items())
        self.conn.execute(f"INSERT INTO {self.table} (id, embedding) VALUES {values}")
        self.next_id += count
        self.changed({**self.rows, **new})

    def insert_many(self):
        self.insert(self.batch)

    def update(self):
        """Gives a row another vector."""
        id = self.some_id()
        point = self.random.randrange(len(self.points))
        self.conn.execute(f"UPDATE {self.table} SET embedding = {self.point(point)} WHERE id = {id}")
        if id in self.rows:
            self.changed({**self.rows, id: point})

    def update_key(self):
        """Gives a row another id and leaves its vector."""
        id, new = self.some_id(), self.next_id
        self.next_id += 1
        self.conn.execute(f"UPDATE {self.table} SET id = {new} WHERE id = {id}")
        if id in self.rows:
            self.changed({(new if i == id else i): p for i, p in self.rows.items()})

    def update_hot(self):
        """Changes columns that no index holds: the new version of the row may have no index entry of its own."""
        self.conn.execute(f"UPDATE {self.table} SET note = note + 1 WHERE id % 5 = {self.random.randrange(5)}")

    def delete(self, count=1):
        gone = self.random.sample(sorted(self.rows), min(count, len(self.rows)))
        self.conn.execute(f"DELETE FROM {self.table} WHERE id = ANY(%s)", [gone])
        self.changed({i: p for i, p in self.rows.items() if i not in set(gone)})

    def search(self, limit=None):
        """Compares the index with the sequential scan and with the model."""
        query = self.points[self.random.randrange(len(self.points))] + self.random.choice((0, 0.01, 1))
        limit = limit or self.random.choice((1, 3, 10, 50))
        found = with_index(self.conn, nearest_sql(self.table, query, limit, self.metric), f"{self.table}_faiss")
        every_row = without_index(self.conn, nearest_sql(self.table, query, None, self.metric))
        assert {id for id, _ in every_row} == set(self.rows), "the table itself differs from the model"
        assert_nearest(found, every_row, limit)
        self.searches += 1

    def search_all(self):
        self.search(limit=10 * self.most_rows)

    def vacuum(self):
        """VACUUM; when it is told to look at the indexes, they hold one entry for each row afterwards and no other."""
        if not self.in_transaction:
            how = self.random.choice(("", "(FREEZE)", "(INDEX_CLEANUP ON)"))
            vacuum_dead_rows(self.conn, self.table, how)
            if "ON" in how:
                sql = f"SELECT rows_indexed FROM vekter_index_stats('{self.table}_faiss')"
                assert self.conn.execute(sql).fetchone() == (len(self.rows),)

    def begin(self):
        if not self.in_transaction:
            self.conn.execute("BEGIN")
            self.in_transaction = True

    def end(self):
        """Ends the transaction: two of three are committed."""
        if not self.in_transaction:
            return
        if self.random.random() < 2 / 3:
            self.commit()
        else:
            self.conn.execute("ROLLBACK")
            self.forget_transaction()

    def savepoint(self):
        """Sets a savepoint, or goes back to the last one."""
        if not self.in_transaction:
            return
        if self.savepoints and self.random.random() < 0.6:
            self.conn.execute(f"ROLLBACK TO s{len(self.savepoints)}")
            self.rows = dict(self.savepoints[-1])
        else:
            self.savepoints.append(dict(self.rows))
            self.conn.execute(f"SAVEPOINT s{len(self.savepoints)}")

    # -- the model --------------------------------------------------------------------------------------------------

    def commit(self):
        if self.in_transaction:
            self.conn.execute("COMMIT")
            self.committed = self.rows
        self.in_transaction, self.savepoints = False, []

    def forget_transaction(self):
        """The running transaction is gone: by ROLLBACK, or with the server."""
        self.rows = self.committed
        self.in_transaction, self.savepoints = False, []

    def changed(self, rows):
        self.rows = rows
        if not self.in_transaction:
            self.committed = rows

    def some_id(self):
        """An id of the table; now and then one that is not there."""
        return self.random.choice(sorted(self.rows)) if self.rows and self.random.random() < 0.95 else -1

    def point(self, number):
        return f"'{to_text(self.points[number])}'"
