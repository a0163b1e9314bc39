"""Text files to columns, with the line of every row and one way to refuse a row.

A file that cannot be read at all (not UTF-8, no header, a column missing) is an InputError. A row that cannot be
parsed is refused: it lands in `Refusals`, later in the rejected table, and its neighbours stay.
"""

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fusion_alpha import tables
from fusion_alpha.errors import InputError
from fusion_alpha.sources import NEWS_COLUMNS, PRICE_COLUMNS

DAY = "a day as YYYY-MM-DD"
ZONED = "a time with its zone, as 2015-01-02T14:30:00Z or 2015-01-02T09:30:00-05:00"
QUOTES = ("open", "high", "low", "close", "volume")
LONGEST_VALUE = 60  # characters of an offending value that the rejected table keeps


@dataclass
class Refusals:
    """Rows that could not be parsed."""

    rows: list[tuple[str, str, int, str, str, str | None]] = field(default_factory=list)

    def add(self, table: str, file: str, line: int, column: str, rule: str, value: object = None) -> None:
        """Note one row. `value` is kept for prices only: the others may hold personal data."""
        shown = str(value)[:LONGEST_VALUE] if table == "prices" and value is not None else None
        self.rows.append((table, file, line, column, rule, shown))

    def frame(self) -> pd.DataFrame:
        """The rejected table (schemas/rejected.yaml), one row for each place and rule."""
        empty = tables.empty("rejected")
        frame = pd.DataFrame(self.rows, columns=["table", "source_file", "line", "column", "rule", "value"])
        return frame.drop_duplicates(tables.schema("rejected").key)[list(empty)].astype(empty.dtypes.to_dict())


def decode(content: bytes, file: str) -> str:
    """UTF-8 text, a byte order mark left out. InputError names byte and line where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {error.start} (0x{content[error.start]:02x}) is not UTF-8",
            file=file,
            line=content.count(b"\n", 0, error.start) + 1,
            rule="text files are UTF-8",
            remedy="convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW",
        ) from None


def csv_rows(content: bytes, file: str, table: str, refused: Refusals) -> pd.DataFrame:
    """A CSV file with a header as columns of text, plus `line`.

    Column names are lower-cased, spaces become underscores. Blank lines are skipped; a row with more or fewer fields
    than the header is refused. InputError for a file without a header, a column named twice and a quote never closed.
    """
    reader = csv.reader(io.StringIO(decode(content, file), newline=""), strict=True)
    rows, lines, line = [], [], 0
    header: list[str] = []
    try:
        for row in reader:
            first, line = line + 1, reader.line_num
            if not row:
                continue
            if not header:
                header = [name.strip().lower().replace(" ", "_") for name in row]
            elif len(row) != len(header):
                refused.add(table, file, first, "row", f"{len(header)} fields, as in the header", f"{len(row)} fields")
            else:
                rows.append(row)
                lines.append(first)
    except csv.Error as error:
        raise InputError(f"not CSV ({error})", file=file, line=reader.line_num, rule="RFC 4180") from None
    if not header:
        raise InputError(
            "the file is empty", file=file, line=1, rule="the first line names the columns", remedy="fill or remove it"
        )
    if len(header) == 1 and (mark := next((mark for mark in ";\t|" if mark in header[0]), None)):
        raise InputError(
            f"columns are separated by {mark!r}", file=file, line=1, rule="commas", remedy="save it with commas"
        )
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise InputError("a column is named twice", file=file, line=1, column=sorted(twice)[0], rule="unique names")
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    frame = pd.DataFrame({name: pd.Series(column, dtype="str") for name, column in zip(header, columns, strict=True)})
    return frame.assign(line=pd.Series(lines, dtype="int64"))


def require_columns(frame: pd.DataFrame, required: tuple[str, ...], file: str) -> None:
    """InputError naming the first missing column, and a present one that may be meant."""
    for name in required:
        if name not in frame:
            present = [str(column) for column in frame if column != "line"]
            close = difflib.get_close_matches(name, [column for column in present if column not in required], n=1)
            hint = f"rename {close[0]!r}" if close else f"add it; the header has {', '.join(present)}"
            raise InputError("the column is missing", file=file, line=1, column=name, rule="required", remedy=hint)


def price_file(content: bytes, file: str, ticker: str, refused: Refusals) -> pd.DataFrame:
    """A CSV file of one ticker's bars -> columns of PRICE_COLUMNS; adj_close is null where the file has none.

    The header (any case) is date or bar_close_utc, open, high, low, close, volume and perhaps adj_close.
    """
    frame = csv_rows(content, file, "prices", refused)
    times = [name for name in ("date", "bar_close_utc") if name in frame]
    if len(times) != 1:
        present = ", ".join(str(column) for column in frame if column != "line")
        raise InputError(
            "both date and bar_close_utc are there" if times else "neither date nor bar_close_utc is there",
            file=file,
            line=1,
            column="date",
            rule="date (daily bars) or bar_close_utc (bars within the day)",
            remedy="keep one of the two" if times else f"name the column of times so; the header has {present}",
        )
    require_columns(frame, QUOTES, file)
    parsed = pd.DataFrame({"source_file": file, "line": frame["line"], "ticker": ticker})
    absent = pd.Series("", index=frame.index, dtype="str")
    parsed["session"] = days(frame.get("date", absent))
    parsed["bar_close_utc"] = instants(frame.get("bar_close_utc", absent))
    bad = parsed["session"].isna() & parsed["bar_close_utc"].isna()
    rule = DAY if times == ["date"] else ZONED
    refuse(bad, frame[times[0]], parsed, "prices", times[0], rule, refused)
    for name in (*QUOTES, "adj_close"):
        if name in frame:
            parsed[name] = pd.to_numeric(frame[name], errors="coerce")
            wrong = parsed[name].isna() & ~bad
            refuse(wrong, frame[name], parsed, "prices", name, "a number", refused)
            bad |= wrong
        else:
            parsed[name] = float("nan")
    return parsed[~bad][list(PRICE_COLUMNS)].astype(PRICE_COLUMNS)


def days(texts: pd.Series) -> pd.Series:
    """YYYY-MM-DD -> midnight without a zone; NaT where it is not that."""
    return pd.to_datetime(texts.str.strip(), format="%Y-%m-%d", errors="coerce").astype("datetime64[us]")


def instants(texts: pd.Series) -> pd.Series:
    """ISO 8601 with an offset -> UTC; NaT where it is not that or has no offset: a naive time may be any zone's."""
    texts = texts.astype("str")
    zoned = texts.str.contains(r"\d[T ]\d\d:?\d\d.*(?:[zZ]|[+-]\d\d:?\d\d)\s*$", regex=True, na=False)
    times = pd.to_datetime(texts.where(zoned).str.strip(), format="ISO8601", utc=True, errors="coerce")
    return times.astype("datetime64[us, UTC]")


def refuse(
    bad: pd.Series, values: pd.Series, rows: pd.DataFrame, table: str, column: str, rule: str, refused: Refusals
) -> None:
    """Note every row of `rows` (with source_file and line) where `bad` holds."""
    if not bad.any():
        return
    places = rows.loc[bad, ["source_file", "line"]]
    for file, line, value in zip(places["source_file"], places["line"], values[bad], strict=True):
        refused.add(table, file, int(line), column, rule, value)


def json_lines(content: bytes, file: str, refused: Refusals) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) for each line of a JSONL file; lines that are no JSON object are refused, blank ones skipped."""
    text = decode(content, file)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            item = None
        if isinstance(item, dict):
            yield number, item
        else:
            refused.add("news", file, number, "line", "one whole JSON object a line")


def published(
    rows: list[tuple[Any, ...]],
    refused: Refusals,
    column: str,
    rule: str,
    parse: Callable[[pd.Series], pd.Series],
) -> pd.DataFrame:
    """Tuples in the order of NEWS_COLUMNS, with published_utc still as text -> the frame.

    `parse` turns the texts into UTC instants; rows where it gives NaT are refused under `column` and `rule`.
    """
    place = list(NEWS_COLUMNS).index("published_utc")
    texts = pd.Series([None if row[place] is None else well_formed(row[place]) for row in rows], dtype="str")
    news = news_frame([(*row[:place], None, *row[place + 1 :]) for row in rows]).assign(published_utc=parse(texts))
    bad = news["published_utc"].isna()
    refuse(bad, texts, news, "news", column, rule, refused)
    return news[~bad]


def news_frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Tuples in the order of NEWS_COLUMNS -> the frame; half a surrogate pair in a text becomes U+FFFD."""
    columns = list(zip(*rows, strict=True)) or [()] * len(NEWS_COLUMNS)
    frame = {}
    for (name, dtype), values in zip(NEWS_COLUMNS.items(), columns, strict=True):
        try:
            frame[name] = pd.Series(values, dtype=dtype)
        except UnicodeEncodeError:
            whole = [None if value is None else well_formed(value) for value in values]
            frame[name] = pd.Series(whole, dtype=dtype)
    return pd.DataFrame(frame)


def well_formed(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which no file and no table takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
