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


def prompt_order(size: int, seed: int, epoch: int) -> list[int]:
    """Row indices of a data set of `size` rows in the order in which training visits them in an epoch."""
    import torch

    generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
    return torch.randperm(size, generator=generator).tolist()


def rows_met(size: int, seed: int, batch: int, after: int, until: int) -> list[int]:
    """Row indices of a data set that generation batches `after` to `until` (counted from 0) ask, each once, in order.

    `batch`: prompts of a generation batch; an epoch drops what is left behind its last whole batch.
    """
    per_epoch = size // batch
    orders: dict[int, list[int]] = {}
    met: dict[int, None] = {}
    for number in range(after, until):
        epoch, place = divmod(number, per_epoch)
        order = orders.setdefault(epoch, prompt_order(size, seed, epoch))
        met |= dict.fromkeys(order[place * batch : (place + 1) * batch])
    return list(met)
