"""A file from a URL into memory: progress bar, time-outs, retries, all of it or nothing."""

import logging
import re
import time

import requests
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from fusion_alpha.errors import InputError
from fusion_alpha.stage import console

log = logging.getLogger(__name__)

TRIES = 3
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 30.0
_WAIT_S = 2.0  # before the second try; doubles
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_BYTES = 1 << 18


def content(url: str, remedy: str) -> bytes:
    """What is at `url`, all of it or nothing; asks TRIES times. In memory: the source may be one that is sealed.

    Raises InputError, with `remedy`, when the network, the server or the length of what came says no.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return _stream(url)
        except (requests.RequestException, OSError) as error:
            response = getattr(error, "response", None)
            final = attempt == TRIES or (response is not None and 400 <= response.status_code < 500)
            if final:
                raise InputError(
                    f"cannot download {url} ({_short(error)})", rule="the file comes whole over HTTP", remedy=remedy
                ) from None
            log.warning("download of %s: %s; trying again", url, _short(error))
            time.sleep(_WAIT_S * 2 ** (attempt - 1))


def _stream(url: str) -> bytes:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with requests.get(url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)) as response:
        response.raise_for_status()
        length = response.headers.get("Content-Length", "")
        known = _LENGTH.fullmatch(length) and "Content-Encoding" not in response.headers
        total = int(length) if known else None
        received = bytearray()
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            task = progress.add_task(url.rpartition("/")[2], total=total)
            for chunk in response.iter_content(_CHUNK_BYTES):
                received += chunk
                progress.update(task, advance=len(chunk))
        if total is not None and len(received) != total:
            raise requests.ConnectionError(f"{len(received)} of {total} bytes came")
    return bytes(received)


def _short(error: Exception) -> str:
    """What happened in one line; requests wraps the reason twice and puts the connection's name before it."""
    reason = getattr(error.args[0] if error.args else None, "reason", None) or error
    text = str(reason).partition("): ")[2] or str(reason)
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__
