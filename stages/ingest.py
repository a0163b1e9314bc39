"""ingest: source -> raw. The source's files as fetched, and for the laboratory its truth beside them.

Reads   what the source of cfg.data names: the laboratory's generator, an archive, a folder, Yahoo
Writes  data/raw/ with manifest.json, data/truth/truth.parquet, the retrieval time in .cache/retrieved.json
Holds   raw is whole or as it was before, and never changed afterwards; no time is in it. Files of a sensitive source
        are age-encrypted and never lie in the clear, not even for a moment; unchanged ones keep their bytes.
Run     python -m stages.ingest [data.lab.seed=8 ...]
"""

import logging
from pathlib import Path

from fusion_alpha import raw, sources, stage, tables
from fusion_alpha.config import Config
from fusion_alpha.files import read_json, replace_folder

log = logging.getLogger(__name__)

RAW = Path("data/raw")


def main(cfg: Config) -> None:
    source = sources.get(cfg.data.source)
    recipients = cfg.privacy.recipients if cfg.data.source in cfg.privacy.sensitive else []

    def fetch(folder: Path) -> None:
        fetched = source.fetch(cfg, folder)
        if recipients:
            kept = raw.keep_sealed(folder, RAW, recipients)
            log.info("sealed to %d keys; %d of %d files are as they were", len(recipients), kept, len(fetched))
        raw.write_manifest(folder, cfg.data.source, fetched, recipients)

    replace_folder(RAW, fetch)
    truth = source.truth(cfg) if hasattr(source, "truth") else tables.empty("truth")
    tables.write("truth", truth)
    raw.note_retrieval(RAW, stage.root())
    entries = read_json(RAW / raw.MANIFEST)["files"]
    log.info("%s: %d files, %.1f MB", cfg.data.source, len(entries), sum(entry["bytes"] for entry in entries) / 1e6)


if __name__ == "__main__":
    stage.run(main)
