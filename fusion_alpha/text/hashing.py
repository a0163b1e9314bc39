"""The name of a text: equal texts share one embedding, and tables join on this hash.

Kept free of torch and transformers, so that any stage may import it.
"""

from collections.abc import Iterable
from hashlib import blake2b


def text_hash(text: str) -> str:
    """BLAKE2b-128 of the text's UTF-8 bytes as 32 hex digits; differs on a single space or letter case."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def text_hashes(texts: Iterable[str]) -> list[str]:
    """`text_hash` of each text, in order; a repeated text is hashed once."""
    known: dict[str, str] = {}
    return [known.get(text) or known.setdefault(text, text_hash(text)) for text in texts]
