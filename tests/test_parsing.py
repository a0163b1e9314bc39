"""Text files to columns: line numbers are exact, numbers keep every digit, faults have a place."""

import numpy as np
import pandas as pd
import pytest

from fusion_alpha.errors import InputError
from fusion_alpha.sources import parsing

HEADER = "Date,Open,High,Low,Close,Adj Close,Volume\n"


def rows(text, refused=None):
    return parsing.csv_rows(text.encode(), "a.csv", "prices", refused or parsing.Refusals())


def test_lines_count_blank_lines_and_quoted_newlines():
    frame = rows('Name,Adj Close\n\na,1\r\n"b\nb",2\n\n\nc,3')
    assert frame["line"].tolist() == [3, 4, 8]
    assert frame["name"].tolist() == ["a", "b\nb", "c"]
    assert frame["adj_close"].tolist() == ["1", "2", "3"]


def test_rows_with_too_few_or_too_many_fields_are_refused():
    refused = parsing.Refusals()
    frame = rows("a,b\n1\n1,2\n1,2,3\n", refused)
    assert frame["line"].tolist() == [3]
    table = refused.frame()
    assert table["line"].tolist() == [2, 4]
    assert table["value"].tolist() == ["1 fields", "3 fields"]
    assert set(table["rule"]) == {"2 fields, as in the header"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n3,\xff\n", ["byte 10 (0xff)", "line 3", "UTF-8", "iconv"]),
        (b"", ["empty", "line 1", "remedy"]),
        (b"a;b\n1;2\n", ["separated by ';'", "save it with commas"]),
        (b"a,A\n1,2\n", ["twice", "column a"]),
        (b'a,b\n1,"2\n3,4\n', ["not CSV", "file a.csv"]),
    ],
)
def test_files_that_cannot_be_read(content, words):
    with pytest.raises(InputError) as error:
        parsing.csv_rows(content, "a.csv", "prices", parsing.Refusals())
    for word in words:
        assert word in str(error.value)


def test_byte_order_mark_and_header_only():
    assert list(rows("\ufeffDate,Open\n")) == ["date", "open", "line"]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ("day", ["neither date nor bar_close_utc", "the header has day, open"]),
        ("date,bar_close_utc", ["both date and bar_close_utc", "keep one of the two"]),
    ],
)
def test_a_file_of_bars_has_one_column_of_times(times, words):
    with pytest.raises(InputError) as error:
        parsing.price_file(f"{times},open,high,low,close,volume\n".encode(), "a.csv", "A", parsing.Refusals())
    for word in words:
        assert word in str(error.value)


def test_prices_keep_every_digit():
    values = np.random.default_rng(0).normal(100, 30, 500)
    text = HEADER + "".join(f"2015-01-02,{value!r},1,1,1,1,1\n" for value in values.tolist())
    frame = parsing.price_file(text.encode(), "a.csv", "A", parsing.Refusals())
    np.testing.assert_array_equal(frame["open"].to_numpy(), values)


def test_price_rows_that_cannot_be_parsed_name_their_place():
    lines = ["2015-01-02,1,2,1,1,1,5", "02/01/2015,1,2,1,1,1,5", "2015-02-30,1,2,1,1,1,5", "2015-01-05,1,2,null,1,,5"]
    refused = parsing.Refusals()
    frame = parsing.price_file((HEADER + "\n".join(lines)).encode(), "prices/A.csv", "A", refused)
    assert frame["line"].tolist() == [2]
    table = refused.frame()[["source_file", "line", "column", "rule", "value"]].to_numpy().tolist()
    assert table == [
        ["prices/A.csv", 3, "date", parsing.DAY, "02/01/2015"],
        ["prices/A.csv", 4, "date", parsing.DAY, "2015-02-30"],
        ["prices/A.csv", 5, "low", "a number", "null"],
    ]


def test_a_missing_column_is_named_with_its_neighbour():
    with pytest.raises(InputError) as error:
        parsing.price_file(b"Date,Open,High,Low,Last,Volume\n", "prices/A.csv", "A", parsing.Refusals())
    for word in ("file prices/A.csv, line 1, column close", "missing", "required", "remedy"):
        assert word in str(error.value)


@pytest.mark.parametrize("header", ["Open,High,Low,Close,Volume", "Date,bar_close_utc,Open,High,Low,Close,Volume"])
def test_one_kind_of_time_is_needed(header):
    with pytest.raises(InputError, match="date"):
        parsing.price_file(header.encode(), "prices/A.csv", "A", parsing.Refusals())


def test_instants_need_a_zone():
    texts = ["2015-01-02T14:30:00Z", "2015-01-02 09:30:00-05:00", "2015-01-02T15:30:00.5+0100"]
    naive = ["2015-01-02T14:30:00", "2015-01-02", "yesterday", "2015-13-02T14:30:00Z", "2015-01-02-05:00", ""]
    times = parsing.instants(pd.Series(texts + naive, dtype="str"))
    assert times[:3].dt.strftime("%H:%M:%S.%f").tolist() == ["14:30:00.000000", "14:30:00.000000", "14:30:00.500000"]
    assert times[3:].isna().all()


def test_json_lines_refuses_what_is_no_whole_object():
    refused = parsing.Refusals()
    content = '{"a": 1}\r\n\n{"a": 2\n[1]\n{"text": "line\u2028separator"}'.encode()
    found = list(parsing.json_lines(content, "n.jsonl", refused))
    assert [line for line, _ in found] == [1, 5]
    table = refused.frame()
    assert table["line"].tolist() == [3, 4]
    assert table["value"].isna().all()


def test_half_a_surrogate_pair_becomes_the_replacement_character():
    row = ("f", 1, "A", "1", None, "cut \ud83d", None, False, None, None)
    assert parsing.news_frame([row])["text"].tolist() == ["cut \ufffd"]


def test_no_news_has_the_types_all_the_same():
    frame = parsing.published([], parsing.Refusals(), "t", parsing.ZONED, parsing.instants)
    assert str(frame["published_utc"].dtype) == "datetime64[us, UTC]"
    assert str(frame["followers"].dtype) == "Int64"
