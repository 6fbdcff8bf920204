"""Seeds from what they are for, so that randomness never depends on history (docs/exactness.md)."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed below 2**32 from the parts; different parts give unrelated streams."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")
