"""Texts a second of this project's text encoder beside plain transformers, one sentence at a time.

    python -m fusion_alpha.text.bench                                    # appends to metrics/text_bench.csv
    python -m fusion_alpha.text.bench --texts 64 --rounds 3 --output /tmp/text_bench.csv

Everybody gets the same distinct texts: headlines of the lab, and cleaned StockNet tweets where --stocknet, or
$STOCKNET_ARCHIVE, names the archive. Times hold tokenization and do not hold loading and export. The peers:

plain            transformers sentence by sentence, all that the text stage needs: embedding and class probabilities
plain_embedding  the same without the sentiment head: less work than any row below
torch            the encoder of text.engine=torch: batches of fixed shapes, a core each
onnx             text.engine=onnx in float32 and int8: batches of equal lengths, a core each

They take turns and swap the order each round, so what disturbs the machine meets all; medians over rounds count.
`x_plain` is the ratio of rates to plain's, `cpu_x_plain` that of texts a second of processor time, which other work on
the machine disturbs less (but it counts threads that wait in a loop, so it means most with one thread). `agreement`
and `cosine_least` compare labels and embeddings with those of plain.
"""

import argparse
import json
import logging
import os
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fusion_alpha import pii
from fusion_alpha.config import TextConfig, load
from fusion_alpha.errors import InputError
from fusion_alpha.sources.lab_headlines import pool
from fusion_alpha.stage import set_up
from fusion_alpha.text.encoders import create, create_torch, encode
from fusion_alpha.text.minilm import MiniLM
from kernels.bench import log as bench_log

OUTPUT = Path("metrics/text_bench.csv")
COLUMNS = [
    *("commit", "date", "device", "versions", "texts", "n_texts", "tokens_mean", "provider", "precision", "threads"),
    *("rounds", "load", "p20_texts_per_s", "p50_texts_per_s", "p80_texts_per_s"),
    *("x_plain", "cpu_x_plain", "agreement", "cosine_least"),
]
_PEER = "plain"
_COMPANIES = 9  # of the lab
_LEAST_CHARACTERS = 15  # of a tweet that is more than a ticker

Vectors = tuple[NDArray[np.float32], NDArray[np.float64]]
log = logging.getLogger("fusion_alpha.text.bench")


@dataclass(frozen=True)
class Provider:
    name: str
    precision: str
    run: Callable[[Sequence[str]], Vectors]


def plain(encoder: MiniLM, texts: Sequence[str], *, sentiment: bool = True) -> Vectors:
    """What one writes first: tokenizer and model, a sentence at a time, all threads inside the products."""
    tokenizer, model, branch = encoder.tokenizer, encoder._model, encoder._branch
    vectors, probabilities = [], []
    with torch.inference_mode():
        for text in texts:
            batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=encoder.spec.max_tokens)
            mask = batch["attention_mask"].bool()
            out = model(**batch, output_hidden_states=sentiment)
            vectors.append(torch.nn.functional.normalize(out.last_hidden_state.mean(1), dim=1))
            logits = branch(out.hidden_states[branch.first_layer], mask) if sentiment else torch.zeros(1, 3)
            probabilities.append(logits.double().softmax(1))
    return torch.cat(vectors).numpy(), torch.cat(probabilities).numpy()


def providers(peer: MiniLM, cfg: TextConfig) -> list[Provider]:
    """All that are measured, the peer first, models loaded."""
    found = [
        Provider(_PEER, "float32", partial(plain, peer)),
        Provider("plain_embedding", "float32", partial(plain, peer, sentiment=False)),
    ]
    for engine, precision in (("torch", "float32"), ("onnx", "float32"), ("onnx", "int8")):
        encoder = create(replace(cfg, engine=engine, precision=precision))
        found.append(Provider(engine, precision, partial(encode, encoder)))
    return found


def measure(found: Sequence[Provider], texts: Sequence[str], threads: int, rounds: int) -> list[dict[str, object]]:
    """A row for each provider; a first round warms up, does not count, and gives the vectors to compare."""
    seconds: dict[Provider, list[tuple[float, float]]] = {one: [] for one in found}
    made: dict[Provider, Vectors] = {}
    turns = list(found)
    for _ in range(rounds + 1):
        for one in turns:
            torch.set_num_threads(threads)
            started = time.perf_counter(), time.process_time()
            made[one] = one.run(texts)
            seconds[one].append((time.perf_counter() - started[0], time.process_time() - started[1]))
        turns.reverse()
    rates = {one: len(texts) / np.array(times[1:])[:, 0] for one, times in seconds.items()}
    on_cpu = {one: len(texts) / np.array(times[1:])[:, 1] for one, times in seconds.items()}
    reference = made[found[0]]
    return [
        {
            "provider": one.name,
            "precision": one.precision,
            "threads": threads,
            "rounds": rounds,
            **{f"p{at}_texts_per_s": round(float(np.percentile(rates[one], at)), 1) for at in (20, 50, 80)},
            "x_plain": round(float(np.median(rates[one] / rates[found[0]])), 3),
            "cpu_x_plain": round(float(np.median(on_cpu[one] / on_cpu[found[0]])), 3),
            "agreement": None if one.name == "plain_embedding" else _agreement(made[one], reference),
            "cosine_least": round(float((made[one][0] * reference[0]).sum(1).min()), 5),
        }
        for one in found
    ]


def headlines(n: int) -> list[str]:
    """`n` distinct headlines of the lab, some of each of its companies."""
    every = dict.fromkeys(text for number in range(_COMPANIES) for text in pool(number))
    return _spread(list(every), n)


def tweets(archive: Path, n: int) -> list[str]:
    """`n` distinct tweets of StockNet as the interim layer holds them, from all over the archive."""
    with zipfile.ZipFile(archive) as source:
        names = sorted(name for name in source.namelist() if "/tweet/raw/" in name and not name.endswith("/"))
        lines = [source.read(name).decode().splitlines()[0] for name in _spread(names, 2 * n)]
    cleaned = dict.fromkeys(" ".join(pii.scrub(json.loads(line)["text"]).split()) for line in lines)
    return _spread([text for text in cleaned if len(text) >= _LEAST_CHARACTERS], n)


def _spread(items: list[str], n: int) -> list[str]:
    if len(items) < n:
        raise InputError(f"only {len(items)} distinct texts", rule=f"--texts {n}", remedy="ask for fewer")
    return [items[number] for number in np.linspace(0, len(items) - 1, n).astype(int)]


def _agreement(found: Vectors, reference: Vectors) -> float:
    return round(float((found[1].argmax(1) == reference[1].argmax(1)).mean()), 5)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fusion_alpha.text.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--texts", type=int, default=256, help="distinct texts of each kind (default 256)")
    parser.add_argument("--rounds", type=int, default=7, help="that count, after one that warms up (default 7)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default 1 and 2")
    archive = os.environ.get("STOCKNET_ARCHIVE")
    parser.add_argument("--stocknet", type=Path, default=archive and Path(archive), metavar="ZIP", help="the archive")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"CSV that is appended to (default {OUTPUT})")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    set_up("bench")
    machine = bench_log.cpu_machine()
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    if busy > 0.5 * cores:
        log.warning("load %.1f on %d cores: other work disturbs, above all the rows of several threads", busy, cores)
    machine |= {"load": round(busy, 1)}
    try:
        kinds = {"lab": headlines(chosen.texts)}
        if chosen.stocknet is not None:
            kinds["stocknet"] = tweets(chosen.stocknet, chosen.texts)
        cfg = load([]).text
        for threads in chosen.threads:
            cfg = replace(cfg, engine="torch", precision="float32", threads=threads)
            peer = create_torch(cfg)
            if not isinstance(peer, MiniLM):
                raise InputError(f"text.name = {cfg.name!r}", rule="the benchmark measures text=minilm")
            found = providers(peer, cfg)
            for name, texts in kinds.items():
                log.info("%s, %d texts, threads %d", name, len(texts), threads)
                count = float(np.mean([len(one) for one in peer.tokenizer(texts)["input_ids"]]))
                about = machine | {"texts": name, "n_texts": len(texts), "tokens_mean": round(count, 1)}
                _append(
                    pd.DataFrame([about | row for row in measure(found, texts, threads, chosen.rounds)]), chosen.output
                )
    except (InputError, bench_log.OtherColumns) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _append(rows: pd.DataFrame, output: Path) -> None:
    written = rows[COLUMNS].astype(object).fillna("")
    bench_log.append([dict(zip(COLUMNS, row, strict=True)) for row in written.to_numpy()], output, COLUMNS)
    shown = ["texts", "tokens_mean", "threads", "provider", "precision", "p50_texts_per_s", *COLUMNS[-4:]]
    sys.stdout.write(rows[shown].to_string(index=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
