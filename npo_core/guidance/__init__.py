"""Guidance: correct trajectories of a future checkpoint, and the Parquet cache that carries them to the replay.

`Trajectory` is one completion with its behaviour log-probs. `write_shard` and `merge_shards` collect trajectories
while a guide generates; `CacheWriter` and `GuidanceCache` write and read the finished cache.
Source: NPO (arXiv 2604.20733), section 3.1, step 2.
"""

from npo_core.guidance.cache import GuidanceCache, summary
from npo_core.guidance.info import CacheInfo, FileEntry, GuideEntry
from npo_core.guidance.shards import (
    PromptCost,
    ShardTotals,
    done_shards,
    merge_shards,
    read_shard_ids,
    read_shards,
    shard_totals,
    write_shard,
)
from npo_core.guidance.trajectory import OUTCOMES, Trajectory
from npo_core.guidance.writer import CacheWriter

__all__ = [
    "OUTCOMES",
    "CacheInfo",
    "CacheWriter",
    "FileEntry",
    "GuidanceCache",
    "GuideEntry",
    "PromptCost",
    "ShardTotals",
    "Trajectory",
    "done_shards",
    "merge_shards",
    "read_shard_ids",
    "read_shards",
    "shard_totals",
    "summary",
    "write_shard",
]
