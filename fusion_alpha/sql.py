"""The tables of all layers in SQL: `make sql`, or `python -m fusion_alpha.sql [QUERY or FILE.sql ...]`.

DuckDB reads the Parquet files where they are, through the views of schemas/views.sql. Queries alone are taken (select,
from, with, describe, show, summarize, pivot, explain); whatever could write a file or change a setting is refused.
Without a query it asks for one after the other; a query ends with a semicolon, Ctrl-D ends the session. An answer has
all columns and says how many rows there are; it shows the first 1000 of them, and 200 characters of a value.
"""

import contextlib
import io
import logging
import re
import sys
from pathlib import Path

import duckdb

from fusion_alpha.errors import InputError
from fusion_alpha.stage import set_up

VIEWS = Path(__file__).parents[1] / "schemas" / "views.sql"

_READS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI)  # the last: pivot
# What writes a file from within one of these; nothing else does that DuckDB can parse there.
_WRITES = {"copy", "json_execute_serialized_sql"}
_LOCKED = "set allow_persistent_secrets = false; set python_enable_replacements = false; set lock_configuration = true"
_ROWS, _CHARACTERS = 1000, 200
_WIDE = 1_000_000  # no terminal is: columns are never left out

log = logging.getLogger(__name__)


def connect(folder: Path = Path()) -> duckdb.DuckDBPyConnection:
    """A database in memory with the views of schemas/views.sql over the tables below `folder`, its settings locked.

    A view whose file is absent is left out, and so is one that needs it. Raises InputError where there is no table.
    """
    connection = duckdb.connect()
    place = str(folder.resolve()).replace("'", "''")
    views = re.sub(r"(?<=as from ')(?=(data|conf)/)", lambda _: f"{place}/", VIEWS.read_text())
    absent = []
    for statement in duckdb.extract_statements(views):
        try:
            connection.execute(statement)
        except (duckdb.IOException, duckdb.CatalogException) as error:
            absent.append(str(error).splitlines()[0])
    found = connection.execute("select count(*) from duckdb_views() where schema_name in ('interim', 'features')")
    if found.fetchall() == [(0,)]:
        raise InputError("no tables", file=folder / "data", remedy="`dvc repro` makes them, `dvc pull` fetches them")
    connection.execute(_LOCKED)
    for reason in absent:
        log.debug("no view: %s", reason)
    return connection


def simulated(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the news that the tables rest on is the laboratory's."""
    try:
        return connection.execute("select 1 from interim.news where source = 'lab' limit 1").fetchall() != []
    except duckdb.CatalogException:
        return False


def questions(file: Path) -> dict[str, tuple[str, str]]:
    """Named queries of a file, name -> (title, SQL): each begins with a line `-- name: title`."""
    parts = re.split(r"^-- ([a-z_]+): (.+)$", _text(file), flags=re.MULTILINE)
    return {name: (title, sql.strip()) for name, title, sql in zip(*[iter(parts[1:])] * 3, strict=True)}


def answer(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    """The results of the statements in `text`, as tables for a terminal.

    Raises InputError for a statement that could write, and with what DuckDB says about a query that it cannot run.
    """
    shown = []
    try:
        statements = duckdb.extract_statements(text)
        for statement in statements:
            _refuse_writes(statement)
        for statement in statements:
            bare = re.sub(r"^--.*$", "", statement.query, flags=re.MULTILINE)  # comments follow a statement's end
            relation = connection.sql(bare.strip().rstrip(";"))
            shown += [] if relation is None else [_shown(relation, statement.type)]
    except duckdb.Error as error:
        raise InputError(str(error), remedy="`show all tables;` lists the views") from None
    return "\n".join(shown)


def _refuse_writes(statement: duckdb.Statement) -> None:
    """InputError for all but queries. COPY may stand in a query's WITH, where its type does not show it."""
    query = statement.query.encode()
    tokens = duckdb.tokenize(statement.query)  # (offset in bytes, kind)
    ends = [offset for offset, _ in tokens[1:]] + [len(query)]
    words = {
        query[start:end].decode().strip().strip('"').lower()
        for (start, kind), end in zip(tokens, ends, strict=True)
        if kind not in (duckdb.token_type.string_const, duckdb.token_type.comment)
    }
    if statement.type not in _READS or words & _WRITES:
        raise InputError(
            f"not a query: {statement.query.strip()[:80]}",
            rule="select, from, with, describe, show, summarize, pivot, explain; nothing that writes",
            remedy="to write a file or change a setting: `duckdb -init schemas/views.sql`, which guards nothing",
        )


def _shown(relation: duckdb.DuckDBPyRelation, kind: duckdb.StatementType) -> str:
    """A result as a table with the number of its rows; a plan as it is."""
    if kind == duckdb.StatementType.EXPLAIN:
        return "\n".join(str(row[-1]) for row in relation.fetchall())
    rows, table = len(relation), io.StringIO()
    with contextlib.redirect_stdout(table):
        relation.limit(_ROWS).show(max_rows=_ROWS, max_width=_WIDE, max_col_width=_CHARACTERS)
    count = f"{rows} row{'' if rows == 1 else 's'}"
    more = f", the first {_ROWS} shown; `limit {_ROWS} offset {_ROWS}` shows the next" if rows > _ROWS else ""
    return f"{table.getvalue().rstrip()}\n{count}{more}\n"


def _queries(argument: str) -> list[tuple[str, str]]:
    """(title, SQL) of what an argument holds: a query, or a file of them, named or not."""
    if not argument.endswith(".sql"):
        return [("", argument)]
    return list(questions(Path(argument)).values()) or [("", _text(Path(argument)))]


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise InputError(f"not text ({error})", file=file, rule="queries are UTF-8") from None


def _ask(connection: duckdb.DuckDBPyConnection) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (history and editing, where the platform has it)
    text = ""
    while True:
        try:
            text += input("...> " if text else "sql> ") + "\n"
        except EOFError:
            sys.stdout.write("\n")
            return
        if text.rstrip().endswith(";"):
            try:
                sys.stdout.write(answer(connection, text) + "\n")
            except InputError as error:
                sys.stderr.write(f"{error}\n")
            text = ""


def main(arguments: list[str]) -> int:
    set_up("sql")
    try:
        connection = connect()
        if simulated(connection):
            log.info("SIMULATED (lab): what follows says nothing about a market")
        for argument in arguments:
            for title, text in _queries(argument):
                sys.stdout.write(f"{title}\n{answer(connection, text)}\n\n".lstrip())
    except (InputError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if not arguments:
        _ask(connection)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
