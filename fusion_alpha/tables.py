"""Every table goes through here: Parquet, validated against its schema on writing and on reading.

schemas/NAME.yaml is the only definition of table NAME: columns, dtype, unit, key, nullability, range. pandera
does the checks; this module adds the file, column, row and rule to what it says and keeps types exact on disk.
A row is identified in errors by its key. Rows are stored in key order, so equal content gives equal bytes.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from fusion_alpha.errors import InputError
from fusion_alpha.files import write_atomic

SCHEMAS = Path(__file__).parents[1] / "schemas"
DATA = Path("data")
BAR_KEY = ["ticker", "bar_close_utc"]  # key of the panel and of all that is said about its rows

# name in the YAML -> (Arrow type on disk, pandas dtype in memory)
_DTYPES: dict[str, tuple[pa.DataType, str]] = {
    "string": (pa.string(), "str"),
    "float64": (pa.float64(), "float64"),
    "float32": (pa.float32(), "float32"),
    "int64": (pa.int64(), "Int64"),
    "boolean": (pa.bool_(), "boolean"),
    "timestamp": (pa.timestamp("us", tz="UTC"), "datetime64[us, UTC]"),
    "date": (pa.timestamp("us"), "datetime64[us]"),  # midnight, no zone: a calendar day
}


@dataclass(frozen=True)
class Schema:
    """One table's definition, as read from its YAML."""

    table: str
    layer: str
    description: str
    key: list[str]
    columns: dict[str, dict[str, Any]]

    @property
    def path(self) -> Path:
        """Where the table lives below the working folder."""
        return DATA / self.layer / f"{self.table}.parquet"


@cache
def schema(table: str) -> Schema:
    path = SCHEMAS / f"{table}.yaml"
    if not path.exists():
        raise InputError(f"no schema for table {table!r}", file=path, rule="one file a table")
    try:
        return Schema(**yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split())
        rule = "a YAML file of table, layer, description, key and columns"
        raise InputError(f"no schema ({said})", file=path, rule=rule, remedy=f"git checkout {path}") from None


def write(table: str, frame: pd.DataFrame, path: Path | None = None) -> Path:
    """Validate `frame`, sort it by key and write it atomically.

    Raises InputError naming file, column, row and rule when the frame breaks the schema.
    """
    definition = schema(table)
    path = path or definition.path
    frame = _in_memory_types(definition, frame, path).sort_values(definition.key, ignore_index=True)
    validate(table, frame, path)
    arrow = pa.Table.from_pandas(frame[list(definition.columns)], preserve_index=False)
    arrow = arrow.cast(_arrow_schema(definition, arrow)).replace_schema_metadata(None)
    write_atomic(path, lambda partial: pq.write_table(arrow, partial, compression="zstd"))
    return path


def read(table: str, path: Path | None = None, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table, or some of its columns, and validate what was read.

    Raises InputError when the file is absent, is not Parquet, or breaks the schema.
    """
    definition = schema(table)
    path = path or definition.path
    if not path.exists():
        raise InputError("no such table", file=path, remedy=f"run the stage that writes {table}: `dvc repro`")
    try:
        arrow = pq.read_table(path, columns=columns, partitioning=None)
        arrow.validate(full=True)  # Parquet does not promise that text is UTF-8
        frame = arrow.to_pandas(
            types_mapper=lambda kind: pd.ArrowDtype(kind) if pa.types.is_fixed_size_list(kind) else None
        )
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        said, rule = " ".join(str(error).split()), "Parquet, as `write` makes it"
        raise InputError(
            f"not a readable Parquet file ({said})", file=path, rule=rule, remedy="run `dvc checkout`"
        ) from None
    frame = _in_memory_types(definition, frame, path, columns)
    validate(table, frame, path, columns)
    return frame


def _shown(column: pd.Series, row: int) -> str:
    try:
        return str(column.iloc[row])
    except NotImplementedError:  # pandas has no text for a year after 9999 in a zone that changes its clocks
        return str(column.to_numpy("datetime64[us]")[row])


def empty(table: str) -> pd.DataFrame:
    """A frame of the table's columns and types without rows; vector columns have length 1."""
    frame = {}
    for name, column in schema(table).columns.items():
        if column["dtype"].startswith("vector"):
            frame[name] = vector_series(np.zeros((0, 1), np.float16))
        else:
            frame[name] = pd.Series(dtype=_DTYPES[column["dtype"]][1])
    return pd.DataFrame(frame)


def vector_series(array: NDArray[Any]) -> pd.Series:
    """(n, d) array -> column of n vectors of length d."""
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return pd.Series(
        pd.array(
            pa.FixedSizeListArray.from_arrays(flat, array.shape[1]),
            dtype=pd.ArrowDtype(pa.list_(flat.type, array.shape[1])),
        )
    )


def vectors(column: pd.Series) -> NDArray[Any]:
    """Column of n vectors of length d -> (n, d) array; inverse of `vector_series`."""
    chunked = pa.chunked_array(column.array.__arrow_array__())
    width = chunked.type.list_size
    flat = chunked.combine_chunks().flatten() if chunked.num_chunks else pa.array([], chunked.type.value_type)
    return flat.to_numpy(zero_copy_only=False).reshape(-1, width)


def validate(table: str, frame: pd.DataFrame, path: Path, columns: list[str] | None = None) -> None:
    """Check `frame` against the table's schema; `path` is only named in errors."""
    definition = schema(table)
    checked = _pandera(table, tuple(columns or definition.columns))
    try:
        checked.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        failure = errors.failure_cases.iloc[0]
        column, row = failure["column"], failure["index"]
        where = ""
        if row is not None and not pd.isna(row):
            keys = [name for name in definition.key if name in frame]
            where = f" in row {int(row)} ({', '.join(f'{name}={_shown(frame[name], int(row))}' for name in keys)})"
        raise InputError(
            f"{len(errors.failure_cases)} value(s) break the schema; first: {failure['failure_case']!r}{where}",
            file=path,
            column=str(column) if column is not None else None,
            rule=str(failure["check"]),
            remedy=f"see schemas/{table}.yaml; the stage that writes this table has a bug, or the file was edited",
        ) from None


def _in_memory_types(
    definition: Schema, frame: pd.DataFrame, path: Path, columns: list[str] | None = None
) -> pd.DataFrame:
    expected = columns or list(definition.columns)
    missing = [name for name in expected if name not in frame]
    extra = [str(name) for name in frame if name not in expected]
    twice = [str(name) for name in frame.columns[frame.columns.duplicated()]]
    if missing or extra or twice:
        raise InputError(
            f"columns missing: {missing}, not in the schema: {extra}" + (f", twice: {twice}" if twice else ""),
            file=path,
            rule=f"the columns of schemas/{definition.table}.yaml",
        )
    casts = {
        name: _DTYPES[definition.columns[name]["dtype"]][1]
        for name in expected
        if not definition.columns[name]["dtype"].startswith("vector")
    }
    for name, dtype in casts.items():
        if dtype.startswith("datetime64") and frame[name].dtype != dtype:
            _refuse_zone_mismatch(frame[name], dtype, path, name)
    try:
        return frame[expected].astype(casts)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"a column has the wrong type ({error})", file=path, rule=f"schemas/{definition.table}.yaml"
        ) from None


def _refuse_zone_mismatch(column: pd.Series, dtype: str, path: Path, name: str) -> None:
    aware = getattr(column.dtype, "tz", None) is not None
    if aware != ("UTC" in dtype) and len(column):
        raise InputError(
            f"timestamps are {'zoned' if aware else 'naive'}", file=path, column=name, rule=f"dtype {dtype}"
        )


def _arrow_schema(definition: Schema, arrow: pa.Table) -> pa.Schema:
    def kind(name: str, column: dict[str, Any]) -> pa.DataType:
        if column["dtype"].startswith("vector"):
            return arrow.schema.field(name).type
        return _DTYPES[column["dtype"]][0]

    return pa.schema(
        [
            pa.field(name, kind(name, column), column.get("nullable", False))
            for name, column in definition.columns.items()
        ]
    )


@cache
def _pandera(table: str, columns: tuple[str, ...]) -> pandera.DataFrameSchema:
    definition = schema(table)
    checked = {}
    for name in columns:
        column = definition.columns[name]
        vector = column["dtype"].startswith("vector")
        checks = []
        if vector:
            checks.append(pandera.Check(_finite_vectors, name="finite vectors", error="every vector is finite"))
        for bound, check in (("min", pandera.Check.ge), ("max", pandera.Check.le), ("above", pandera.Check.gt)):
            if bound in column:
                checks.append(check(column[bound]))
        if column["dtype"].startswith("float"):
            checks.append(pandera.Check(lambda values: ~np.isinf(values), error="finite"))
        if "allowed" in column:
            checks.append(pandera.Check.isin(column["allowed"]))
        if "pattern" in column:
            checks.append(pandera.Check.str_matches(f"^(?:{column['pattern']})$"))
        checked[name] = pandera.Column(
            None if vector else _DTYPES[column["dtype"]][1], checks, nullable=column.get("nullable", False)
        )
    unique = definition.key if set(definition.key) <= set(columns) else None
    return pandera.DataFrameSchema(checked, strict=True, unique=unique)


def _finite_vectors(column: pd.Series) -> bool:
    return bool(np.isfinite(vectors(column)).all())
