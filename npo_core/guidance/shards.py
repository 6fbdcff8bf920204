"""Guidance while it is generated: finished chunks of prompts as small files, merged at the end into the sorted cache.

A chunk is there or not there: its file appears under its name in one step. A stage that was killed asks `done_shards`
and goes on with the rest; the merged cache has the same id as without the interruption. A shard is a Parquet file like
those of the cache; its key-value metadata names every prompt asked (also those without a correct sample) and the rows'
digests, so that totals and the id of the cache are known from the footers.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from itertools import zip_longest
from operator import itemgetter

import pyarrow as pa
import pyarrow.parquet as pq

from npo_core.errors import DamagedError, DataError
from npo_core.guidance.cache import read_info
from npo_core.guidance.info import INFO_FILE, CacheInfo
from npo_core.guidance.parquet import RowGroupWriter, batch_to_rows, read_footer, read_groups, reading
from npo_core.guidance.trajectory import Trajectory
from npo_core.guidance.writer import CacheWriter, RowsDigest, draft_info
from npo_core.timeline.store import Store

FOLDER = "shards"
REMEDY = "Remove this file and start the stage again: its prompts are then generated again."
_NAME = re.compile(r"(\d{6})\.parquet")
_COSTS, _DIGESTS = b"npo.attempts", b"npo.digests"


@dataclass(frozen=True, slots=True)
class PromptCost:
    """What one prompt cost, solved or not: the samples a guide drew for it, and the tokens of all of them.

    Beside these, the samples found right that may not guide: `refused` by a second opinion, or right by a guess.
    """

    prompt_id: str
    samples: int
    tokens: int
    refused: int = 0
    guessed: int = 0


@dataclass(frozen=True, slots=True)
class ShardTotals:
    """Sums over all shards: distinct prompts asked, trajectories kept, and of attempts what these count."""

    prompts: int
    rows: int
    samples: int
    tokens: int
    refused: int
    guessed: int


def write_shard(store: Store, index: int, trajectories: Iterable[Trajectory], costs: Iterable[PromptCost]) -> None:
    """Commit chunk `index` as `shards/<index>.parquet` in `store`, in one step; the same chunk gives the same bytes.

    `costs` names every prompt of the chunk, `trajectories` those that were solved, in any order.
    Raises DataError for an unsound row, a prompt that comes twice, or a trajectory of a prompt that was not asked.
    """
    rows = sorted((row.validate() for row in trajectories), key=lambda row: (row.prompt_id, row.sample))
    asked = sorted(costs, key=_prompt_id)
    _refuse_twice((row.prompt_id, row.sample) for row in rows)
    _refuse_twice(cost.prompt_id for cost in asked)
    if strange := {row.prompt_id for row in rows} - {cost.prompt_id for cost in asked}:
        raise DataError(f"Shard {index} holds trajectories of {sorted(strange)[:3]}, which its costs do not name.")
    store.write_bytes(_shard(index), _encode(rows, asked))


def done_shards(store: Store) -> list[int]:
    """Indexes of the chunks committed, rising; leftovers of an interrupted write are not among them."""
    matches = map(_NAME.fullmatch, store.list(FOLDER))
    return sorted(int(match[1]) for match in matches if match)


def read_shard_ids(store: Store, index: int) -> list[str]:
    """The prompts that chunk `index` holds a trajectory of, sorted. Raises DamagedError as `read_shards` does."""
    footer = _footer(store, index)
    groups = range(footer.num_row_groups)
    with reading(store, _shard(index), REMEDY):
        batches = read_groups(store, _shard(index), footer, groups, columns=["prompt_id"])
        return [prompt_id for batch in batches for prompt_id in batch.column("prompt_id").to_pylist()]


def shard_totals(store: Store) -> ShardTotals:
    """What all chunks together asked, kept and cost; reads footers only. Raises DamagedError as `read_shards` does."""
    asked: set[str] = set()
    rows, sums = 0, [0, 0, 0, 0]
    for index in done_shards(store):
        footer = _footer(store, index)
        rows += footer.num_rows
        for prompt_id, *counts in _note(store, index, footer, _COSTS):
            asked.add(prompt_id)
            sums = [total + count for total, count in zip_longest(sums, counts, fillvalue=0)]
    return ShardTotals(len(asked), rows, *sums)


def read_shards(store: Store) -> Iterator[Trajectory]:
    """All trajectories of all chunks, sorted by prompt id; holds one row group of each chunk in memory.

    Raises DamagedError, with the file and the remedy, when a chunk cannot be read.
    """
    return heapq.merge(*(_shard_rows(store, index) for index in done_shards(store)), key=_prompt_id)


def merge_shards(shards: Store, caches: Store, **facts) -> CacheInfo:
    """Write the chunks of `shards` as one cache into the folder `<id>` of `caches`; return at once when it is there.

    `facts` are the fields of CacheInfo that neither rows nor costs tell (fingerprints, sampling, guides, seconds).
    Raises DataError for a prompt with two trajectories or facts that contradict the rows, DamagedError as
    `read_shards` does.
    """
    totals = shard_totals(shards)
    facts |= {"prompts_asked": totals.prompts, "samples_drawn": totals.samples, "tokens_generated": totals.tokens}
    facts |= {"refused": totals.refused, "guessed": totals.guessed}
    draft = draft_info(_rows_digest(shards), [], facts)
    target = caches.child(draft.id)
    if target.exists(INFO_FILE):
        return read_info(target)
    writer = CacheWriter(target)
    writer.write(read_shards(shards))
    info = writer.finish(**facts)
    if info.id != draft.id:
        raise DamagedError(
            f"{shards.uri}: the rows in {FOLDER} do not match their recorded digests. "
            "Remove that folder and start the stage again."
        )
    return info


def _encode(rows: list[Trajectory], costs: list[PromptCost]) -> bytes:
    sink = pa.BufferOutputStream()
    writer = RowGroupWriter(sink)
    for row in rows:
        writer.add(row)
    prompts = [_without_zeros(astuple(cost)) for cost in costs]
    writer.close({_COSTS: json.dumps(prompts), _DIGESTS: json.dumps([row.digest().hex() for row in rows])})
    return sink.getvalue().to_pybytes()


def _without_zeros(values: tuple) -> tuple:
    """Without the last two where both are 0, as they nearly always are."""
    return values if any(values[3:]) else values[:3]


def _rows_digest(store: Store) -> RowsDigest:
    """The digest of the merged rows, from the digests that the shards carry."""
    pairs = []
    for index in done_shards(store):
        footer = _footer(store, index)
        digests = _note(store, index, footer, _DIGESTS)
        with reading(store, _shard(index), REMEDY):
            pairs += zip(read_shard_ids(store, index), digests, strict=True)
    digest = RowsDigest()
    for _, row in sorted(pairs, key=itemgetter(0)):
        digest.add(bytes.fromhex(row))
    return digest


def _shard_rows(store: Store, index: int) -> Iterator[Trajectory]:
    """The rows of one chunk, sorted; the file is open only while a row group is read, as there may be thousands."""
    footer = _footer(store, index)
    for group in range(footer.num_row_groups):
        with reading(store, _shard(index), REMEDY):
            batches = list(read_groups(store, _shard(index), footer, [group]))
        for batch in batches:
            yield from batch_to_rows(batch)


def _footer(store: Store, index: int) -> pq.FileMetaData:
    with reading(store, _shard(index), REMEDY):
        return read_footer(store, _shard(index))


def _note(store: Store, index: int, footer: pq.FileMetaData, name: bytes) -> list:
    with reading(store, _shard(index), REMEDY):
        return json.loads((footer.metadata or {})[name])


def _shard(index: int) -> str:
    return f"{FOLDER}/{index:06d}.parquet"


def _prompt_id(record: Trajectory | PromptCost) -> str:
    return record.prompt_id


def _refuse_twice(keys: Iterable[str | tuple[str, int]]) -> None:
    """Raises DataError where a prompt, or a sample of one, follows itself."""
    last = None
    for key in keys:
        if key == last:
            prompt_id = key if isinstance(key, str) else key[0]
            raise DataError(f"Prompt {prompt_id} comes twice in one shard.")
        last = key
