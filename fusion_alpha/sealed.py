"""Files of sensitive sources: age-encrypted where they lie, opened in memory alone.

A source that privacy.sensitive names has NAME.age below data/raw instead of NAME, in the age format [C2SP age.md, by
pyrage] to every key of privacy.recipients. Those are public and stand in conf/. What opens a file, an identity
(AGE-SECRET-KEY-1...), comes from the environment or a file outside the repository and goes nowhere else.

Sources write through `writer` and read through `listed`, `exists`, `read` and `stream`, which know both forms. So the
plain content of a sealed file is never given to a file system. Names, number and sizes of files stay readable.
"""

import io
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import pyrage
from pyrage import x25519

from fusion_alpha import files
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError

log = logging.getLogger(__name__)

SUFFIX = ".age"
IDENTITY = "FUSION_ALPHA_AGE_IDENTITY"  # the secret itself
IDENTITY_FILE = "FUSION_ALPHA_AGE_IDENTITY_FILE"  # a file of secrets, as age-keygen writes it
COMMAND = "python -m fusion_alpha.privacy"

Write = Callable[[Path, bytes], Path]


def default_file() -> Path:
    """Where an identity is looked for when no variable names one."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "fusion-alpha" / "identity.txt"


def is_sealed(path: Path) -> bool:
    return path.suffix == SUFFIX


def plain(path: Path) -> Path:
    """The path without the suffix of a sealed file."""
    return path.with_suffix("") if is_sealed(path) else path


def listed(folder: Path) -> list[Path]:
    """Files of `folder` by their plain names, in order; none without the folder. InputError for both forms."""
    names = [plain(path) for path in folder.glob("*") if path.is_file()]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                "there is a plain and a sealed file of this name", file=name, remedy="keep the one that is right"
            )
    return sorted(names)


def exists(path: Path) -> bool:
    return path.exists() or _beside(path).exists()


def read(path: Path) -> bytes:
    """Content of a plain path, from the file or from its sealed form. InputError where no identity opens it."""
    return path.read_bytes() if path.exists() else unseal(_beside(path).read_bytes(), str(_beside(path)))


def stream(path: Path) -> BinaryIO:
    """The same, to read from and to close: a plain file is not taken into memory."""
    return path.open("rb") if path.exists() else io.BytesIO(read(path))


def writer(cfg: Config) -> Write:
    """What a source hands its files to: (path, content) -> path of the file that was written, whole or not at all.

    It seals for a source that privacy.sensitive names, and removes what the other form has left under that name.
    """
    keys = recipients(cfg.privacy.recipients) if cfg.data.source in cfg.privacy.sensitive else None

    def write(path: Path, content: bytes) -> Path:
        written, other = (path, _beside(path)) if keys is None else (_beside(path), path)
        files.write_bytes(written, content if keys is None else pyrage.encrypt(content, keys))
        other.unlink(missing_ok=True)
        return written

    return write


def _beside(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def recipients(keys: Sequence[str]) -> list[x25519.Recipient]:
    """Public keys as age writes them. InputError for none, and for one that is none."""
    if not keys:
        raise InputError(
            "parameter privacy.recipients is empty",
            rule="a sensitive source is sealed to one public key (age1...) or more",
            remedy=f"`{COMMAND} key` makes one and says where it goes",
        )
    try:
        return [x25519.Recipient.from_str(key) for key in keys]
    except pyrage.RecipientError as error:
        raise InputError(
            f"parameter privacy.recipients: a key cannot be used ({error})",
            rule="public keys as age1..., of the kind X25519",
            remedy=f"copy it again, whole; `{COMMAND} key` shows the one of your identity",
        ) from None


def seal(content: bytes, keys: Sequence[str]) -> bytes:
    """`content` for the holders of these public keys; never the same bytes twice."""
    return bytes(pyrage.encrypt(content, recipients(keys)))


def unseal(content: bytes, name: str) -> bytes:
    """What a sealed file holds. InputError, naming it as `name`, where no identity opens it or it is damaged."""
    known = identities()
    try:
        return bytes(pyrage.decrypt(content, known))
    except pyrage.DecryptError as error:
        if "No matching keys" not in str(error):
            raise InputError(
                f"a damaged file ({error})", file=name, rule="age seals show every change", remedy="run `dvc checkout`"
            ) from None
        ours = ", ".join(str(one.to_public()) for one in known)
        raise InputError(
            "none of the identities given opens it",
            file=name,
            rule=f"it was sealed to other keys than {ours}; data/raw/manifest.json names them",
            remedy=f"give the identity of one of those keys in ${IDENTITY_FILE} (one or more lines) or ${IDENTITY}",
        ) from None


def identities() -> list[x25519.Identity]:
    """The secret keys of this user: $FUSION_ALPHA_AGE_IDENTITY, else the file of $..._FILE, else default_file().

    InputError where there is none or a line is none; no message holds any of what was read.
    """
    secret = os.environ.get(IDENTITY)
    if secret:
        return parsed(secret, f"${IDENTITY}")
    named = os.environ.get(IDENTITY_FILE)
    path = Path(named).expanduser() if named else default_file()
    if not path.is_file():
        raise InputError(
            "no identity to open sealed files with" + (f": ${IDENTITY_FILE} names no file" if named else ""),
            file=path,
            rule="privacy.sensitive names this source: its raw files are age-encrypted",
            remedy=f"set ${IDENTITY_FILE} to the file with your AGE-SECRET-KEY-1..., or ${IDENTITY} to the key itself; "
            f"where there is none yet, `{COMMAND} key` makes one",
        )
    if path.stat().st_mode & 0o077:
        log.warning("%s can be read by others on this machine: chmod 600 %s", path, path)
    return parsed(path.read_text(errors="replace"), str(path))


def parsed(text: str, origin: str) -> list[x25519.Identity]:
    """Identities of the lines of `text`; InputError names the line of `origin` that is none."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            found.append(x25519.Identity.from_str(line.strip()))
        except pyrage.IdentityError as error:
            raise InputError(
                f"not an identity ({error})",
                file=origin,
                line=number,
                rule="AGE-SECRET-KEY-1... a line, comments with #",
                remedy=f"copy it again, whole, or make a new one: `{COMMAND} key`",
            ) from None
    if not found:
        raise InputError("no identity in it", file=origin, rule="AGE-SECRET-KEY-1... a line")
    return found
