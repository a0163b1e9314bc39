"""The name of a text: equal texts share one embedding, and tables join on this hash.

Kept free of torch and transformers, so that any stage may import it.
"""

from collections.abc import Iterable
from hashlib import sha256


def text_hash(text: str) -> str:
    """First 32 hex digits of the SHA-256 of the text's UTF-8 bytes, which DuckDB's sha256() gives too."""
    return sha256(text.encode()).hexdigest()[:32]


def text_hashes(texts: Iterable[str]) -> list[str]:
    """`text_hash` of each text, in order; a repeated text is hashed once."""
    known: dict[str, str] = {}
    return [known.get(text) or known.setdefault(text, text_hash(text)) for text in texts]
