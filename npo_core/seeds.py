"""Seeds from what they are for, so that randomness never depends on history (docs/exactness.md)."""

import hashlib

LIMIT = 2**32  # numpy's generator takes no larger seed, and `transformers.set_seed` sets it


def derive_seed(*parts: int | str) -> int:
    """A seed below 2**32 from the parts; different parts give unrelated streams."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def library_seed(seed: int) -> int:
    """A seed as libraries take it: one below 2**32 as it is, any other by a hash."""
    return seed if 0 <= seed < LIMIT else derive_seed(seed)
