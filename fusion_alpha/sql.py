"""The tables of all layers in SQL: `make sql`, or `python -m fusion_alpha.sql [QUERY or FILE.sql ...]`.

DuckDB reads the Parquet files where they are, through the views of schemas/views.sql, and changes none of them.
Without a query it asks for one after the other; a query ends with a semicolon, Ctrl-D ends the session.
"""

import contextlib
import logging
import re
import sys
from pathlib import Path

import duckdb

from fusion_alpha.errors import InputError
from fusion_alpha.stage import set_up

VIEWS = Path(__file__).parents[1] / "schemas" / "views.sql"

log = logging.getLogger(__name__)


def connect(folder: Path = Path()) -> duckdb.DuckDBPyConnection:
    """A database in memory with the views of schemas/views.sql over the tables below `folder`.

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

    Raises InputError with what DuckDB says about a query that it cannot run.
    """
    shown = []
    try:
        for statement in duckdb.extract_statements(text):
            bare = re.sub(r"^--.*$", "", statement.query, flags=re.MULTILINE)  # comments follow a statement's end
            relation = connection.sql(bare.strip().rstrip(";"))
            shown += [] if relation is None else [str(relation)]
    except duckdb.Error as error:
        raise InputError(str(error), remedy="`show all tables;` lists the views") from None
    return "\n".join(shown)


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
