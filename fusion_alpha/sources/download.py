"""A file from a URL: progress bar, time-outs, retries, whole or absent."""

import logging
import time
from pathlib import Path

import requests
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from fusion_alpha.errors import InputError
from fusion_alpha.stage import console

log = logging.getLogger(__name__)

TRIES = 3
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 30.0
_WAIT_S = 2.0  # before the second try; doubles
_CHUNK_BYTES = 1 << 18


def to_file(url: str, path: Path, remedy: str) -> None:
    """Download `url` to `path`; tries TRIES times, and leaves nothing at `path` unless all of it arrived.

    Raises InputError, with `remedy`, when the network, the server or the length of what came says no.
    """
    partial = path.with_name(f"{path.name}.partial")
    for attempt in range(1, TRIES + 1):
        try:
            _stream(url, partial)
            partial.replace(path)
            return
        except (requests.RequestException, OSError) as error:
            partial.unlink(missing_ok=True)
            response = getattr(error, "response", None)
            final = attempt == TRIES or (response is not None and 400 <= response.status_code < 500)
            if final:
                raise InputError(
                    f"cannot download {url} ({_short(error)})", rule="the file comes whole over HTTP", remedy=remedy
                ) from None
            log.warning("download of %s: %s; trying again", url, _short(error))
            time.sleep(_WAIT_S * 2 ** (attempt - 1))


def _stream(url: str, partial: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with requests.get(url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)) as response:
        response.raise_for_status()
        length = response.headers.get("Content-Length")
        total = int(length) if length and "Content-Encoding" not in response.headers else None
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress, partial.open("wb") as handle:
            task = progress.add_task(partial.stem, total=total)
            for chunk in response.iter_content(_CHUNK_BYTES):
                handle.write(chunk)
                progress.update(task, advance=len(chunk))
        received = partial.stat().st_size
        if total is not None and received != total:
            raise requests.ConnectionError(f"{received} of {total} bytes came")


def _short(error: Exception) -> str:
    """What happened in one line; requests wraps the reason twice and puts the connection's name before it."""
    reason = getattr(error.args[0] if error.args else None, "reason", None) or error
    text = str(reason).partition("): ")[2] or str(reason)
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__
