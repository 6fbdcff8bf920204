"""What a guidance cache holds, in numbers for people."""

from __future__ import annotations

from collections import Counter

import numpy as np

from npo_core.guidance.cache import check_sizes, read_info, wanted_batches
from npo_core.guidance.info import CacheInfo
from npo_core.guidance.reader import ReadCount
from npo_core.timeline.store import Store


def summary(store: Store) -> dict:
    """What a person asks of a cache; reads token ids only to count them. Raises as `GuidanceCache.open` does.

    rows, coverage (Q), lengths in tokens (min, median, mean, max), rows per guide, and the price of one cached
    trajectory in samples drawn and tokens generated.
    """
    info = read_info(store)
    check_sizes(store, info)
    lengths, per_guide = _scan(store, info)
    each = max(info.rows, 1)
    return {
        "id": info.id,
        "rows": info.rows,
        "coverage": info.coverage,
        "prompts_asked": info.prompts_asked,
        "prompts_skipped": info.prompts_skipped,
        "refused": info.refused,
        "guessed": info.guessed,
        "lengths": _spread(lengths),
        "guides": [{"id": guide.id, "step": guide.step, "rows": per_guide[guide.id]} for guide in info.guides],
        "samples_per_trajectory": info.samples_drawn / each,
        "tokens_per_trajectory": info.tokens_generated / each,
        "seconds": info.seconds,
        "files": len(info.files),
        "bytes": sum(entry.bytes for entry in info.files),
    }


def _scan(store: Store, info: CacheInfo) -> tuple[np.ndarray, Counter[str]]:
    """Completion lengths [rows], and rows per guide id."""
    lengths = [np.zeros(0, np.int64)]
    per_guide: Counter[str] = Counter()
    for entry in info.files:
        for batch in wanted_batches(store, entry, None, ReadCount(), ["token_ids", "guide"]):
            lengths.append(batch.column("token_ids").value_lengths().to_numpy(zero_copy_only=False))
            per_guide.update(batch.column("guide").to_pylist())
    return np.concatenate(lengths), per_guide


def _spread(lengths: np.ndarray) -> dict[str, float] | None:
    if not len(lengths):
        return None
    return {
        "min": int(lengths.min()),
        "median": float(np.median(lengths)),
        "mean": float(lengths.mean()),
        "max": int(lengths.max()),
    }
