"""Text to vectors: distinct texts are hashed, embedded once, and cached across experiments.

`encoders` holds the models, `cache` the store, `embed` what ties both together; importing this package loads
neither torch nor transformers.
"""

from fusion_alpha.text.hashing import text_hash, text_hashes

__all__ = ["text_hash", "text_hashes"]
