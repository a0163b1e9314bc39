"""Tables keep their types on disk and refuse what breaks their schema, naming the place."""

import numpy as np
import pandas as pd
import pytest

from fusion_alpha import tables
from fusion_alpha.errors import InputError
from fusion_alpha.files import sha256


def make_prices(rows: int = 10) -> pd.DataFrame:
    times = pd.date_range("2020-01-01", periods=rows, freq="D", tz="UTC")
    return pd.DataFrame(
        {
            "ticker": "TSLA",
            "bar_close_utc": times,
            "session": times.tz_localize(None),
            **{name: np.linspace(1, 2, rows) for name in ("open", "high", "low", "close", "adj_close")},
            "volume": 3,
        }
    )


@pytest.mark.parametrize("table", sorted(path.stem for path in tables.SCHEMAS.glob("*.yaml")))
def test_empty_tables_survive_the_disk(table, tmp_path):
    path = tables.write(table, tables.empty(table), tmp_path / "t.parquet")
    assert list(tables.read(table, path).columns) == list(tables.schema(table).columns)


def test_equal_content_in_any_row_order_gives_equal_bytes(tmp_path):
    frame = make_prices()
    first = tables.write("prices", frame, tmp_path / "a.parquet")
    second = tables.write("prices", frame.sample(frac=1, random_state=1), tmp_path / "b.parquet")
    assert sha256(first) == sha256(second)
    pd.testing.assert_frame_equal(
        tables.read("prices", first),
        frame.astype(
            {"volume": float, "session": "datetime64[us]", "bar_close_utc": "datetime64[us, UTC]", "ticker": "str"}
        ),
    )


def test_some_columns_of_a_table(tmp_path):
    path = tables.write("prices", make_prices(), tmp_path / "t.parquet")
    assert list(tables.read("prices", path, columns=["ticker", "close"]).columns) == ["ticker", "close"]


def test_vectors_survive_the_disk_bit_for_bit(tmp_path):
    array = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float16)
    frame = pd.DataFrame(
        {
            "text_hash": [f"{row:032x}" for row in range(7)],
            "embedding": tables.vector_series(array),
            "p_negative": 0.2,
            "p_neutral": 0.3,
            "p_positive": 0.5,
        }
    )
    stored = tables.read("text", tables.write("text", frame, tmp_path / "t.parquet"))
    assert tables.vectors(stored["embedding"]).tobytes() == array.tobytes()
    bad = array.copy()
    bad[3, 2] = np.nan
    with pytest.raises(InputError, match="every vector is finite"):
        tables.write("text", frame.assign(embedding=tables.vector_series(bad)), tmp_path / "bad.parquet")


def spoil(**changes: object) -> pd.DataFrame:
    frame = make_prices()
    for name, value in changes.items():
        column = frame[name].astype(object)
        column.iloc[5] = value
        frame[name] = column.infer_objects()
    return frame


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (spoil(close=-1.0), r"column close.*row 5 \(ticker=TSLA, bar_close_utc=2020-01-06.*greater_than\(0\)"),
        (spoil(close=np.nan), "column close.*not_nullable"),
        (spoil(close=np.inf), "column close.*finite"),
        (spoil(ticker="tsla x"), "column ticker.*str_matches"),
        (pd.concat([make_prices(), make_prices(1)]), "uniqueness"),
        (make_prices().drop(columns="volume"), r"columns missing: \['volume'\]"),
        (make_prices().assign(extra=1), r"not in the schema: \['extra'\]"),
        (make_prices().assign(close="x"), "wrong type"),
        (make_prices().assign(bar_close_utc=lambda f: f["bar_close_utc"].dt.tz_localize(None)), "timestamps are naive"),
    ],
)
def test_broken_rules_name_file_column_row_and_rule_and_write_nothing(frame, message, tmp_path):
    path = tmp_path / "prices.parquet"
    with pytest.raises(InputError, match=f"(?s)prices.parquet.*{message}"):
        tables.write("prices", frame, path)
    assert list(tmp_path.iterdir()) == []


def test_a_time_without_a_text_is_named_as_well(tmp_path):
    frame = make_prices(2)
    frame["bar_close_utc"] = frame["bar_close_utc"].astype("datetime64[us, UTC]") + pd.Timedelta(days=5_000_000)
    frame["bar_close_utc"] = frame["bar_close_utc"].dt.tz_convert("America/New_York")
    with pytest.raises(InputError, match="ticker=TSLA, bar_close_utc=15709-"):
        tables.validate("prices", frame.assign(close=-1.0), tmp_path / "t.parquet")


def test_reading_checks_too(tmp_path):
    path = tmp_path / "prices.parquet"
    with pytest.raises(InputError, match="no such table"):
        tables.read("prices", path)
    path.write_bytes(b"not parquet")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        tables.read("prices", path)
    make_prices().assign(close=-1.0).to_parquet(path)
    with pytest.raises(InputError, match="column close"):
        tables.read("prices", path)
    with pytest.raises(InputError, match="no schema"):
        tables.read("nothing")
