"""Readers of outside bytes keep their contract: inputs without a fault are read, damaged ones are read or refused.

Quick mutations here, the same ones every time; `make fuzz` looks further, led by what of the code is reached.
"""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz.targets import TARGETS, TOKENS, check
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

EXAMPLES = int(os.environ.get("EXAMPLES", "30"))

DEEP, LONG = b'{"a":' * 3000, b"9" * 5000


def config_of_a_checkpoint(**changes: object) -> bytes:
    """A seed's config.json, changed; None takes a key out."""
    content = json.loads(TARGETS["checkpoint_config"].seeds()[0]) | changes
    return json.dumps({name: value for name, value in content.items() if value is not None}).encode()


def answer_of_yahoo(news: object) -> bytes:
    return json.dumps(json.loads(TARGETS["yahoo_answer"].seeds()[0]) | {"news": news}).encode()


def predictions_in_zone(zone: str) -> bytes:
    table = pq.read_table(io.BytesIO(TARGETS["table_predictions"].seeds()[0]))
    place = table.schema.get_field_index("bar_close_utc")
    buffer = io.BytesIO()
    pq.write_table(table.set_column(place, "bar_close_utc", table[place].cast(pa.timestamp("us", zone))), buffer)
    return buffer.getvalue()


def predictions_of(ticker: bytes, **changes: object) -> bytes:
    """A seed with one ticker of any bytes, as text, and other columns changed to one value."""
    table = pq.read_table(io.BytesIO(TARGETS["table_predictions"].seeds()[0]))
    frame = {name: table[name] for name in table.column_names}
    frame |= {name: pa.array([value] * len(table)) for name, value in changes.items()}
    places = pa.py_buffer(np.arange(len(table) + 1, dtype=np.int32) * len(ticker))
    frame["ticker"] = pa.StringArray.from_buffers(len(table), places, pa.py_buffer(ticker * len(table)))
    buffer = io.BytesIO()
    pq.write_table(pa.table(frame), buffer)
    return buffer.getvalue()


def model_of_a_checkpoint(**changes: object) -> dict[str, object]:
    return json.loads(TARGETS["checkpoint_config"].seeds()[0])["model"] | changes


def live_yahoo(part: bytes, other: bytes) -> bytes:
    seed = TARGETS["feed_yahoo_minutes"].seeds()[0]
    assert part in seed
    return seed.replace(part, other)


def answer_of_a_feed(part: bytes, other: bytes) -> bytes:
    seed = TARGETS["feed"].seeds()[0]
    assert part in seed
    return seed.replace(part, other)


def json_of(name: str, **changes: object) -> bytes:
    """A seed that is a JSON object, changed."""
    return json.dumps(json.loads(TARGETS[name].seeds()[0]) | changes).encode()


def tensors_of(name: str, **changes: np.ndarray) -> bytes:
    """A seed of safetensors, changed."""
    return save(load(TARGETS[name].seeds()[0]) | changes)


# What fuzzing found: the bytes, and what they ended in before the reader was mended.
FOUND = {
    "stocknet_zip": {
        "ValueError of a seek before the start": lambda: TARGETS["stocknet_zip"].seeds()[0][15:],
        "ValueError, no movements": lambda: (
            TARGETS["stocknet_zip"].seeds()[0].replace(b"preprocessed", b"preprocessor")
        ),
    },
    "yahoo_answer": {
        "OutOfBoundsDatetime": lambda: answer_of_yahoo([{"title": "t", "providerPublishTime": 10**20}]),
        "AttributeError, headlines that are no objects": lambda: answer_of_yahoo(["a"]),
        "TypeError, no headlines": lambda: answer_of_yahoo(None),
    },
    "yahoo_news": {
        "OutOfBoundsDatetime": lambda: b'{"title": "t", "providerPublishTime": %s}\n' % (b"9" * 20),
        "TypeError, a time that is true": lambda: b'{"title": "t", "pubDate": true}\n',
    },
    "yahoo_store": {
        "JSONDecodeError": lambda: b'{"id": \n',
        "UnicodeDecodeError": lambda: b"\xff\n",
        "AttributeError, a line that is no object": lambda: b"[]\n",
        "RecursionError": lambda: DEEP + b"\n",
    },
    "raw_manifest": {
        "TypeError, no object": lambda: b"null",
        "KeyError 'files'": lambda: b'{"source": "csv"}',
        "KeyError 'sha256'": lambda: b'{"source": "csv", "files": [{"path": "a.csv"}]}',
        "OSError, a name too long": lambda: b'{"source": "csv", "files": [{"sha256": "", "path": "%s"}]}' % LONG,
        "ValueError, a number too long": lambda: LONG,
        "RecursionError": lambda: DEEP,
    },
    "raw_times": {"TypeError, no object": lambda: b"[]"},
    "params": {
        "OSError, no block": lambda: b"5",
        "AttributeError, a list": lambda: b"- a",
        "TypeError, a number for a name": lambda: b"-1:",
    },
    "params_override": {
        "yaml.ParserError": lambda: b"tickers=[",
        "yaml.ParserError, an open block": lambda: b"tune.space.train.lr={- low",
        "a parameter without a name": lambda: b"={low: 1}",
        "ConfigIndexError, half an index": lambda: b"[a=1",
        "ConfigKeyError, a key in a block": lambda: b"tune=igh:",
    },
    "params_choice": {
        "yaml.ConstructorError": lambda: b"name: pool\nname: pool\n",
        "UnicodeDecodeError": lambda: b"\xff",
        "RecursionError": lambda: b"[" * 3000,
        "InterpolationKeyError": lambda: b"name: ${x}\nworkers: 1\nranks: 1\n",
    },
    "schema": {
        "yaml.ScannerError": lambda: b"a: b: c",
        "TypeError": lambda: b"x: 1",
        "UnicodeDecodeError": lambda: b"\xff",
        "yaml.ConstructorError": lambda: b"!!python/object:os.system x",
    },
    "table_benchmark": {
        "UnicodeDecodeError, a column whose name is no text": lambda: (
            TARGETS["table_benchmark"].seeds()[0].replace(b"movement", b"\xffovement")
        ),
    },
    "table_predictions": {
        "AttributeError, a column twice": lambda: TARGETS["table_predictions"].seeds()[0].replace(b"kind", b"fold"),
        "UnknownTimeZoneError": lambda: predictions_in_zone("Nowhere"),
        "UnicodeDecodeError, text that is none": lambda: predictions_of(b"\xac"),
        "UnicodeDecodeError, the same in a row that breaks a rule": lambda: predictions_of(b"\xac", p_up=2.0),
    },
    "embedding_cache": {
        "UnicodeDecodeError, SQL that is no text": lambda: (
            TARGETS["embedding_cache"].seeds()[0].replace(b"CREATE TABLE texts", b"CREATE TABL\xff texts")
        ),
    },
    "questions": {"UnicodeDecodeError": lambda: b"\xff"},
    "checkpoint_config": {
        "KeyError 'weights_sha256'": lambda: config_of_a_checkpoint(weights_sha256=None),
        "KeyError 'seed'": lambda: config_of_a_checkpoint(seed=None),
        "StopIteration, a new key with null": lambda: config_of_a_checkpoint(model=model_of_a_checkpoint(new=None)),
        "TypeError, features that are objects": lambda: config_of_a_checkpoint(session_features=[{}]),
        "TypeError, a width of 4.0": lambda: config_of_a_checkpoint(model=model_of_a_checkpoint(width=4.0)),
        "RecursionError": lambda: DEEP,
    },
    "onnx_manifest_content": {
        "KeyError 'format'": lambda: b"{}",
        "ValueError, a number that is none": lambda: b'{"format": NaN, "files": {}}',
    },
    "onnx_fusionnet_manifest": {
        "KeyError 'model_id'": lambda: json_of("onnx_fusionnet_manifest", model_id=None).replace(b"model_id", b"x"),
        "AttributeError, no checkpoint": lambda: json_of("onnx_fusionnet_manifest", checkpoint=[]),
        "TypeError, thresholds that are a number": lambda: json_of("onnx_fusionnet_manifest", thresholds=5),
    },
    "onnx_fusionnet_model": {"InvalidProtobuf": lambda: TARGETS["onnx_fusionnet_model"].seeds()[0][3:]},
    "onnx_fusionnet_golden": {
        "SafetensorError": lambda: b"",
        "KeyError 'mask_0'": lambda: TARGETS["onnx_fusionnet_golden"].seeds()[0].replace(b"mask_0", b"mask_2"),
        "all of the memory, for 2^40 samples without a mask": lambda: tensors_of(
            "onnx_fusionnet_golden", mask_0=np.zeros((1 << 40, 0), np.float32)
        ),
        "InvalidArgument, rows without an answer": lambda: tensors_of(
            "onnx_fusionnet_golden", float32=np.zeros((1 << 40, 0), np.float32)
        ),
        "ValueError, an odd number of samples": lambda: tensors_of(
            "onnx_fusionnet_golden", mask_0=np.zeros((3, 8), np.float32)
        ),
    },
    "onnx_fusionnet_golden_torch": {
        "SafetensorError": lambda: b"",
        "RuntimeError, a feature too many": lambda: tensors_of(
            "onnx_fusionnet_golden_torch", sessions=np.zeros((2, 6, 3), np.float32)
        ),
    },
    "onnx_encoder_manifest": {
        "KeyError 'name'": lambda: b'{"format": 1, "files": {}}',
        "TypeError, positions that are text": lambda: json_of("onnx_encoder_manifest", positions="all"),
        "OverflowError, a last token too large": lambda: json_of("onnx_encoder_manifest", last_token=10**30),
    },
    "onnx_encoder_model": {"InvalidProtobuf": lambda: TARGETS["onnx_encoder_model"].seeds()[0][3:]},
    "onnx_encoder_tokenizer": {
        "Exception": lambda: b"",
        "InvalidArgument, a token that the model has not": lambda: (
            TARGETS["onnx_encoder_tokenizer"].seeds()[0].replace(b'"up":3', b'"up":9')
        ),
    },
    "onnx_encoder_golden": {
        "SafetensorError": lambda: b"",
        "TypeError, texts without a length": lambda: tensors_of(
            "onnx_encoder_golden", lengths=np.zeros((1 << 40, 0), np.int64)
        ),
    },
    "head_config": {
        "AttributeError, no object": lambda: b"[]",
        "KeyError 'first_layer'": lambda: json_of("head_config", first_layer=0).replace(b"first_layer", b"x"),
        "TypeError, a layer of 1.5": lambda: json_of("head_config", first_layer=1.5),
        "IndexError, a layer that the encoder has not": lambda: json_of("head_config", first_layer=3),
    },
    "identities": {"UnicodeDecodeError": lambda: b"# \xff\n" + TARGETS["identities"].seeds()[0]},
    "rotation": {
        "TypeError, an entry that is no object": lambda: b'{"a.csv.age": 5}',
        "KeyError 'recipients'": lambda: TARGETS["rotation"].seeds()[0].replace(b"recipients", b"x"),
    },
    "rotation_manifest": {
        "TypeError, files that are no list": lambda: json_of("rotation_manifest", files=5),
        "TypeError, a path that is no text": lambda: json_of("rotation_manifest", files=[{"path": 5, "sha256": ""}]),
        "FileNotFoundError, a file without a hash": lambda: json_of(
            "rotation_manifest", files=[{"path": "b.csv.age", "sha256": None}]
        ),
    },
    "labelled_text": {
        "UnicodeDecodeError": lambda: b"\xff",
        "EmptyDataError": lambda: b"",
        "TypeError, texts that are numbers": lambda: b"text,label,source\n1,neutral,a\n",
    },
    "equity": {
        "UnicodeDecodeError": lambda: b"\xff",
        "ValueError, no session": lambda: b"day,model\n2020-01-02,1.0\n",
        "TypeError, a value that is text": lambda: b"session,model\n2020-01-02,up\n2020-01-03,1.0\n",
        "ValueError, a session twice": lambda: b"session,model\n2020-01-02,1.0\n2020-01-02,1.0\n2020-01-03,1.0\n",
    },
    "looks": {
        "UnicodeDecodeError": lambda: b"\xff",
        "csv.Error, a field too long": lambda: b"a" * (1 << 18),
    },
    "journal_content": {
        "KeyError 'timing'": lambda: b'{"seq": 0, "prev": "", "kind": "signal", "data": {}}',
        "KeyError 'reason'": lambda: b'{"seq": 0, "prev": "", "kind": "latch", "data": {}, "timing": {}}',
        "TypeError, data that is no object": lambda: (
            b'{"seq": 0, "prev": "", "kind": "latch", "data": 5, "timing": {}}'
        ),
    },
    "feed_yahoo_minutes": {
        "NotImplementedError, a time in milliseconds": lambda: live_yahoo(b"1709650880", b"1709650880000"),
        "TypeError, no time of the market": lambda: live_yahoo(b"1709650880", b"null"),
        "ValueError, a bar without a time": lambda: live_yahoo(b"[1709650320", b"[null"),
        "ValueError, a stored headline with NaN": lambda: TARGETS["feed_yahoo_minutes"].seeds()[0],
        "TypeError, a headline at true": lambda: live_yahoo(b'"2024-03-05T15:00:00Z"', b"true"),
    },
    "feed": {
        "OutOfBoundsDatetime, a clock in the year 204": lambda: b"Mon, 01 Jul 204 13:31:02 GMT\n{}",
        "ValueError, a rest of \N{SUPERSCRIPT TWO} seconds": lambda: b"|\xb2\n{}",
        "OverflowError, an integer of 400 digits": lambda: answer_of_a_feed(b'"open": 1.0', b'"open": ' + b"1" * 400),
        "OverflowError, a bar of the year 202": lambda: answer_of_a_feed(b"2024-07-01T13:31", b"0202-07-01T13:31"),
        "ValueError, the logarithm of 0": lambda: answer_of_a_feed(b'"adj_close": 1.0', b'"adj_close": 5e-324'),
    },
}

edits = st.tuples(
    st.sampled_from(["insert", "replace", "cut", "repeat"]),
    st.floats(0, 1),
    st.integers(1, 24),
    st.sampled_from(TOKENS) | st.binary(max_size=4),
)


def edited(content: bytes, edit: tuple[str, float, int, bytes]) -> bytes:
    kind, where, length, token = edit
    place = int(where * len(content))
    before, part, after = content[:place], content[place : place + length], content[place + length :]
    return {
        "insert": before + token + part + after,
        "replace": before + token + after,
        "cut": before if length > 20 else before + after,
        "repeat": before + part * 3 + after,
    }[kind]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "input"


@pytest.mark.parametrize("name", TARGETS)
def test_what_has_no_fault_is_read(name, folder):
    for seed in TARGETS[name].seeds():
        check(name, seed, folder, refusal=False)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_bytes_are_read_or_refused_by_name(name, folder):
    seeds = TARGETS[name].seeds()

    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(seeds), st.lists(edits, min_size=1, max_size=4))
    def damage(seed, edits):
        for edit in edits:
            seed = edited(seed, edit)
        check(name, seed, folder)

    damage()


@pytest.mark.parametrize(
    ("name", "ended_in"), [(name, ended_in) for name, cases in FOUND.items() for ended_in in cases]
)
def test_what_once_broke_a_reader_does_so_no_more(name, ended_in, folder):
    check(name, FOUND[name][ended_in](), folder)
