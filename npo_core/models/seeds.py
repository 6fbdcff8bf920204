"""Seeds as libraries take them."""

import hashlib

LIMIT = 2**32  # numpy's generator takes no larger seed, and `transformers.set_seed` sets it


def library_seed(seed: int) -> int:
    """A seed below 2**32: such a one as it is, any other by a hash."""
    if 0 <= seed < LIMIT:
        return seed
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")
