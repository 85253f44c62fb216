"""dbt with dbt-materialize, in an environment of its own, and the double of Materialize with as much of a catalog as
dbt asks for.

The packages are fetched once from PyPI and stay in the user's cache.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import yaml

from support.downloads import cached, run
from support.materialize import MaterializeDouble, Relation, Result
from support.materialize.protocol import Row, column
from support.materialize.server import ColumnSpec
from support.materialize.session import relation_name

PACKAGES = ("dbt-core==1.10.23", "dbt-materialize==1.9.11")
"""The newest that go together: later releases of dbt-core install by a download of their own."""

HOUR = 3_600_000
Content = Mapping[str, tuple[ColumnSpec, Sequence[Row]]]
"""Name of a model -> the columns and rows of its view."""

_DONE = "tocsin-tests-done "
_COMMANDS = f"""
import json, sys
from dbt.cli.main import dbtRunner
for line in sys.stdin:
    result = dbtRunner().invoke(json.loads(line))
    print({_DONE!r} + json.dumps(result.success), flush=True)
"""


def _fetch(new: Path, _: Path) -> None:
    run(sys.executable, "-m", "venv", str(new), cwd=new)
    run(str(new / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES, cwd=new)


class Dbt:
    """A dbt that runs one command after the other, all in one process, since its start takes seconds."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def __call__(self, *arguments: str, fails: bool = False) -> None:
        """Run a command. `fails`: dbt ends with an error, as `dbt test` does when a test finds rows."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
        printed: list[str] = []
        async with asyncio.timeout(100):
            while not printed or not printed[-1].startswith(_DONE):
                line = await self._process.stdout.readline()
                assert line, "\n".join(printed)
                printed.append(line.decode().rstrip())
        assert printed[-1] == _DONE + json.dumps(not fails), "\n".join(printed)


@asynccontextmanager
async def dbt(project: Path, double: MaterializeDouble) -> AsyncIterator[Dbt]:
    """dbt on a project, to which it adds a profile that reaches the double. Skips the test where dbt cannot be had."""
    packages = "-".join(PACKAGES).replace("==", "-")
    environment = cached(packages, _fetch)
    server = {"type": "materialize", "host": "127.0.0.1", "port": double.port, "user": "dbt", "password": "none"}
    output = {**server, "dbname": "materialize", "schema": "ops", "cluster": "alerting", "threads": 1}
    name = yaml.safe_load((project / "dbt_project.yml").read_text())["profile"]
    profiles = {name: {"target": "default", "outputs": {"default": output}}}
    (project / "profiles.yml").write_text(yaml.safe_dump(profiles))
    process = await asyncio.create_subprocess_exec(
        *(environment / "bin" / "python", "-c", _COMMANDS),
        cwd=project,
        env={**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "DBT_USE_COLORS": "false"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Dbt(process)
    finally:
        process.kill()
        await process.wait()


_NONE = Result(tag="SELECT 0")


class Catalog:
    """What dbt asks the double and does to it. A view has the rows of `content`, whatever its query is.

    A new view can be read by no role but its owner's until it is granted, or if its schema is in `granted`.

    Attributes:
        granted: schemas with default privileges for the reader.
        log: time (of `time.monotonic`), `create` or `drop`, and full name of each view.
    """

    def __init__(self, double: MaterializeDouble, content: Content, *, reader: str, granted: set[str]) -> None:
        """`reader`: a role that reads the views."""
        self.log: list[tuple[float, str, str]] = []
        self.granted = granted
        self._reader = reader
        self._double = double
        self._content = content
        self._schemas = {"public"}
        self._reads: dict[Relation, list[Relation]] = {}
        double.answer = self._answer

    def times(self, action: str, name: str) -> list[float]:
        return [at for at, done, what in self.log if (done, what) == (action, name)]

    def _answer(self, text: str) -> Result | None:
        statement = " ".join(re.sub(r"^/\*(?s:.*?)\*/|--.*", "", text).split()).rstrip("; ")
        for pattern, answer in _ANSWERS.items():
            if found := re.match(pattern, statement, re.IGNORECASE):
                return answer(self, *found.groups())
        return None  # one of Tocsin's, or unknown

    def schemas(self) -> Result:
        return _table(*((schema,) for schema in sorted(self._schemas)), names=("nspname",))

    def schema(self, name: str) -> Result:
        return _table((name,)) if name in self._schemas else _NONE

    def cluster(self, name: str) -> Result:
        return _table((name,)) if name in self._double.clusters else _NONE

    def cluster_settings(self, name: str) -> Result:
        return _table(("t", "50cc", "1", "manual", None)) if name in self._double.clusters else _NONE

    def readiness(self, name: str) -> Result:
        return _table((name, "u1", "ready", None, "1", "1", "0", "1", "0", "1"))

    def relations(self, schema: str) -> Result:
        found = (one.name for one in self._double.relations.values() if one.name[1] == schema)
        return _table(*((*name, "materialized_view") for name in found), names=("database", "schema", "name", "type"))

    def create(self, name: str, query: str) -> Result:
        columns, rows = self._content[relation_name(name)[-1]]
        made = self._double.create(name, columns, retain=HOUR, rows=rows)
        self._double.compact(made)  # there was never a moment in which it was empty
        if made.name[1] not in self.granted:
            made.denied.add(self._reader)
        self._reads[made] = [one for one in self._double.relations.values() if _quoted(one) in query]
        self._note("create", made)
        return Result(tag="CREATE MATERIALIZED VIEW")

    def drop(self, name: str) -> Result:
        try:
            dropped = self._double.relation(name)
        except KeyError:
            return Result(tag="DROP MATERIALIZED VIEW")
        self._drop(dropped)
        return Result(tag="DROP MATERIALIZED VIEW")

    def _drop(self, dropped: Relation) -> None:
        """With what reads it, as CASCADE does."""
        for reader in [one for one, read in self._reads.items() if dropped in read]:
            self._drop(reader)
        self._reads.pop(dropped, None)
        if dropped.gone is None:
            self._note("drop", dropped)
            self._double.drop(dropped)

    def grant(self, name: str, role: str) -> Result:
        self._double.relation(name).denied.discard(role)
        return Result(tag="GRANT")

    def default_privileges(self, new: str, old: str) -> Result:
        """The statements that give a schema those of another one."""
        granted = f"ALTER DEFAULT PRIVILEGES FOR ROLE dbt IN SCHEMA {new} GRANT SELECT ON TABLEs TO {self._reader}"
        return _table((granted,)) if old in self.granted else _NONE

    def grant_by_default(self, schema: str) -> Result:
        self.granted.add(schema)
        return Result(tag="ALTER DEFAULT PRIVILEGES")

    def create_schema(self, name: str) -> Result:
        self._schemas.add(name)
        return Result(tag="CREATE SCHEMA")

    def drop_schema(self, name: str) -> Result:
        for relation in [one for one in self._double.relations.values() if one.name[1] == name]:
            self._drop(relation)
        self._schemas.discard(name)
        return Result(tag="DROP SCHEMA")

    def create_cluster(self, name: str) -> Result:
        self._double.create_cluster(name)
        return Result(tag="CREATE CLUSTER")

    def drop_cluster(self, name: str) -> Result:
        self._double.drop_cluster(name)
        return Result(tag="DROP CLUSTER")

    def swap(self, statements: str) -> Result:
        """One transaction."""
        for kind, one, other in re.findall(r'ALTER (SCHEMA|CLUSTER) "(\w+)" SWAP WITH "(\w+)"', statements):
            if kind == "SCHEMA":
                self._double.swap_schemas(one, other)
            else:
                self._double.swap_clusters(one, other)
        return Result(tag="COMMIT")

    def failures(self, name: str) -> Result:
        count = str(len(self._double.relation(name).rows()))
        failing = "false" if count == "0" else "true"
        return _table((count, failing, failing), names=("failures", "should_warn", "should_error"))

    def _note(self, action: str, relation: Relation) -> None:
        self.log.append((time.monotonic(), action, relation.full_name))


_NAME = r'("\w+"\."\w+"\."\w+")'
_ANSWERS: dict[str, Callable[..., Result]] = {
    r"select distinct nspname from pg_namespace": Catalog.schemas,
    r"select d\.name as database, .* from mz_objects .* s\.name = '(\w+)'": Catalog.relations,
    r"select \* from mz_schemas .* mz_schemas\.name = '(\w+)'": Catalog.schema,
    r"select \* from mz_clusters where name = '(\w+)'": Catalog.cluster,
    r"select c\.managed, c\.size, .* c\.name = '(\w+)'": Catalog.cluster_settings,
    r"select count\(\*\) > 0 from mz_(?:sinks|objects)": lambda _: _table(("f",), kind="bool"),
    r"select mz_is_superuser\(\)": lambda _: _table(("t",), kind="bool"),
    r"select 'alter default privileges .* 'in schema (\w+) ' .* schema = '(\w+)'": Catalog.default_privileges,
    r"alter default privileges .* in schema (\w+) grant select": Catalog.grant_by_default,
    rf'grant select on {_NAME} to "?(\w+)"?$': Catalog.grant,
    # The double has no privileges on schemas and clusters.
    r"with (?:schema|cluster)_privilege": lambda _: _NONE,
    r"with problematic_replicas .* c\.name in \('(\w+)'\)": Catalog.readiness,
    r"select current_user, now\(\)": lambda _: _table(("dbt", "now")),
    rf"select count\(\*\) as failures, .* select \* from {_NAME}": Catalog.failures,
    rf"create (?:materialized )?view {_NAME} .*?\bas \((.*)\)$": Catalog.create,
    rf"drop (?:materialized )?view if exists {_NAME} cascade": Catalog.drop,
    r'create schema(?: if not exists)? (?:"materialize"\.)?"?(\w+)"?$': Catalog.create_schema,
    r'drop schema if exists "(\w+)" cascade': Catalog.drop_schema,
    r'create cluster "(\w+)" ': Catalog.create_cluster,
    r'drop cluster if exists "(\w+)" cascade': Catalog.drop_cluster,
    r"begin; (.*); commit$": Catalog.swap,
    r"(?:create index|comment on|set cluster) ": lambda _: Result(tag="OK"),
}
"""Patterns of the statements that dbt sends, after their comment, with blanks in place of line breaks."""


def _table(*rows: Row, names: Sequence[str] = (), kind: str = "text") -> Result:
    """Rows of columns of one type. `names`: where dbt asks for a column by its name."""
    columns = [column(name, kind) for name in names or (f"c{at}" for at in range(len(rows[0])))]
    return Result(tag=f"SELECT {len(rows)}", columns=columns, rows=rows)


def _quoted(relation: Relation) -> str:
    return ".".join(f'"{part}"' for part in relation.name)
