"""Every block of code in README.md and docs/ does what its page says. CONTRIBUTING.md describes the markers."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCE = ROOT / "docs/reference.md"
WITH_PGVECTOR = "<!-- test: pgvector -->"
PGVECTOR = ("SELECT name FROM pg_available_extensions WHERE name = 'vector' "
            "AND string_to_array(default_version, '.')::int[] >= '{0,7}'")
BLOCK = re.compile(r"^(?:<!-- test: (?P<marker>\w+)(?P<setup>(?:(?!-->).)*)-->\n)?"
                   r"```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
# What pages write for any vector of 384 dimensions.
QUERY = "'[" + ",".join(str(i % 7 / 7) for i in range(384)) + "]'"


class Block(NamedTuple):
    language: str
    code: str
    marker: str
    setup: str
    line: int


def blocks(text):
    found = [Block(m["language"], m["code"], m["marker"] or "", m["setup"] or "", text.count("\n", 0, m.start("code")))
             for m in BLOCK.finditer(text)]
    assert len(found) == len(re.findall("^```", text, re.MULTILINE)) / 2, "a block that is not closed"
    return found


class Page:
    """Runs the blocks of a page in order: SQL in one database, Python in one program."""

    def __init__(self, cluster, database, connection):
        self.cluster, self.database = cluster, database
        # The server and this program both write there.
        self.folder = cluster.folder / "faiss"
        self.folder.mkdir(mode=0o777, exist_ok=True)
        self.folder.chmod(0o777)
        self.program = {"db": connection}
        self.output = None

    def run(self, block):
        assert block.marker in ("", "setup", "varies"), f"no marker {block.marker}"
        if block.language == "text":
            return self.text(block.code, block.marker == "varies")
        self.output = None
        run = {"sql": self.sql, "python": self.python, "sh": self.sh, "ebnf": self.ebnf}[block.language]
        if block.marker == "setup":
            run(self.placed(block.setup))
        run(self.placed(block.code))

    def placed(self, code):
        return code.replace("/srv/faiss", str(self.folder))

    def sql(self, code):
        if re.match(r"\w+\(", code):
            return self.signatures(code)
        code = code.replace("'[...]'", QUERY).replace("$1", f"{QUERY}::vector")
        self.output = self.cluster.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.database, input=code)

    def signatures(self, code):
        """Signatures of functions are those of the reference."""
        known = set(re.findall(r"^`(.*)`$", REFERENCE.read_text(), re.MULTILINE))
        for signature in re.split(r"\n(?=\w)", code.strip()):
            signature = re.sub(r"\s+", " ", signature)
            assert signature in known, f"docs/reference.md has no function {signature}"

    def text(self, code, varies):
        """The output of the SQL before it; if it `varies`, apart from its numbers and their alignment."""
        assert self.output is not None, "output that belongs to no SQL"
        shown, given = ([line.rstrip() for line in text.strip("\n").split("\n")] for text in (code, self.output))
        if varies:
            shown, given = ([re.sub(r"\d[\d.,]*", "N", re.sub(r"[ -]+", " ", line)).strip() for line in lines]
                            for lines in (shown, given))
        assert given == shown

    def python(self, code):
        exec(code, self.program)

    def sh(self, code):
        """Commands are not run, but what they name exists: a target of make and its variables, or a file."""
        makefile = (ROOT / "Makefile").read_text()
        for line in filter(None, (line.partition(" #")[0].split() for line in code.splitlines())):
            variables = [word.partition("=")[0] for word in line if "=" in word]
            command, *targets = [word for word in line if "=" not in word]
            if command == "make":
                assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), line
                scripts = "".join(path.read_text() for path in (*ROOT.glob("scripts/*.sh"), *ROOT.glob("demo/*.sh")))
                assert all(name in makefile + scripts for name in variables), line
            else:
                assert (ROOT / command).exists(), f"no check for the command {line}"

    def ebnf(self, code):
        """The grammar of factory strings has every string that the page measures, and none that it refuses."""
        rules = dict(re.findall(r"^(\w+) *= (.*(?:\n +.*)*)", code, re.MULTILINE))
        pattern = {"{": "(?:", "}": ")*", "[": "(?:", "]": ")?", "(": "(?:", ")": ")", "|": "|"}

        def regex(name):
            words = re.findall(r'"[^"]*"|<\w+>|\w+|[^\w\s]', rules[name])
            return "(?:" + "".join(pattern.get(word) or (r"\d+" if word[0] == "<" else regex(word) if word in rules
                                                         else re.escape(word.strip('"'))) for word in words) + ")"
        factories = re.compile(regex("factory"))
        page = (ROOT / "docs/factories.md").read_text()
        measured = re.findall(r"^\| `(.*?)` \|.*\d \|$", page, re.MULTILINE)
        refused = [re.sub(r"(?<=[A-Z_x])[nmb](?![a-z])", "8", name).rstrip(".") for name in
                   re.findall(r"^\| `(.*?)`", page.partition("## What is refused")[2], re.MULTILINE)]
        assert len(measured) > 30 and [name for name in measured if not factories.fullmatch(name)] == []
        assert len(refused) >= 10 and [name for name in refused if factories.fullmatch(name)] == []


@pytest.mark.parametrize("path", [page for page in PAGES if "```" in page.read_text()], ids=lambda path: path.stem)
def test_every_block_of_a_page_runs_and_gives_the_output_that_is_shown(cluster, path):
    text = path.read_text()
    if WITH_PGVECTOR in text and not cluster.execute(PGVECTOR):
        pytest.skip("pgvector 0.7 or later is not installed in this PostgreSQL (scripts/pgvector_for_tests.sh)")
    database = f"page_{path.stem.replace('-', '_').lower()}"
    cluster.execute(f"CREATE DATABASE {database}")
    with cluster.connect(database) as connection:
        page = Page(cluster, database, connection)
        for block in blocks(text):
            try:
                page.run(block)
            except Exception as reason:
                raise AssertionError(f"{path.relative_to(ROOT)}:{block.line + 1}: {reason}") from reason


def test_the_reference_is_what_the_catalogue_says(cluster, database):
    written = cluster.psql((ROOT / "scripts/sql_reference.sql").read_text(), database)
    expected = REFERENCE.read_text()
    with_pgvector = "\n## With pgvector\n"
    if with_pgvector not in written:
        expected = expected.partition(with_pgvector)[0]
    assert written == expected, "make docs writes it anew"


def test_every_object_and_setting_has_a_description(cluster, database):
    cluster.psql((ROOT / "scripts/sql_reference.sql").read_text(), database)
    assert cluster.execute(
        "SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid "
        "WHERE d.refclassid = 'pg_extension'::regclass AND e.extname ~ '^vekter' "
        "AND d.classid <> 'pg_opfamily'::regclass AND obj_description(d.objid, d.classid::regclass::name) IS NULL", dbname=database) == []
    with cluster.connect(database) as db:
        db.execute("LOAD '$libdir/vekter'")
        undescribed = "SELECT name FROM pg_settings WHERE name ~ '^vekter' AND length(short_desc) < 20"
        assert db.execute(undescribed).fetchall() == []


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "src/README.md"],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", path.read_text()):
        page = (path.parent / target).resolve() if target else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), f"{target}#{anchor}"


def anchors(page):
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub("^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
