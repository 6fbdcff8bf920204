"""Opens a guidance cache: finds a few prompts among many rows, and holds only those.

Memory follows the rows asked for and not the size of the cache: a row costs its tokens, its log-probs and about a
kilobyte. On a disk, with an index, the rows of a file are decoded when one of them is asked for. From elsewhere, and
where all rows are wanted, row groups are read and all but the wanted rows dropped, batch by batch.
"""

from __future__ import annotations

import hashlib
import posixpath
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from npo_core.errors import ConfigError, DamagedError, DataError
from npo_core.guidance.index import ReadCount, check_groups, read_index
from npo_core.guidance.info import FINGERPRINTS, INFO_FILE, REMEDY, SCHEMA_VERSION, CacheInfo, FileEntry, IndexEntry
from npo_core.guidance.parquet import (
    batch_to_rows,
    byte_range,
    lengths,
    read_footer,
    read_groups,
    reading,
    touched_groups,
)
from npo_core.guidance.trajectory import LOGPROB_SLACK, Trajectory
from npo_core.timeline.store import Store


class GuidanceCache:
    """Correct trajectories by prompt id, one a prompt unless more were kept; made by `GuidanceCache.open`.

    info     the content of `cache.json`, for the whole cache
    read     what `open` had to read
    """

    def __init__(self, store: Store, info: CacheInfo, rows: Mapping[str, list[Trajectory]], read: ReadCount) -> None:
        self.store = store
        self.info = info
        self.read = read
        self._rows = rows

    @classmethod
    def open(
        cls, store: Store, prompt_ids: Iterable[str] | None = None, *, expect: dict | None = None
    ) -> GuidanceCache:
        """Load the trajectories of `prompt_ids` (all rows for None); prompts without a row are simply not in it.

        `expect` holds the fingerprints of this run (any of tokenizer, model, problems, reward_names).

        Raises DataError when there is no cache, its schema is unknown or it was made for something else, DamagedError
        when a file is missing, cut off or unreadable, or what holds a wanted row is not what was written, StorageError
        when the store cannot be reached.
        """
        info = read_info(store)
        _check_expected(store, info, expect or {})
        check_sizes(store, info)
        wanted = None if prompt_ids is None else sorted(set(prompt_ids))
        if wanted is not None and info.index is not None and store.is_local:
            on_disk = RowsOnDisk(store, info, wanted)
            return cls(store, info, on_disk, on_disk.read)
        rows: dict[str, list[Trajectory]] = {}
        read = ReadCount()
        for entry in info.files:
            _read_rows(store, info, entry, wanted, rows, read)
        return cls(store, info, rows, read)

    def get(self, prompt_id: str) -> Trajectory | None:
        """The first trajectory of this prompt (read-only views), or None when there is none."""
        return rows[0] if (rows := self._rows.get(prompt_id)) else None

    def get_all(self, prompt_id: str) -> list[Trajectory]:
        """All trajectories of this prompt, in the order of their samples."""
        return self._rows.get(prompt_id, [])

    def lookup(self, prompt_ids: Sequence[str]) -> list[Trajectory | None]:
        """`get` for each of a batch of prompts, in order."""
        return [self.get(prompt_id) for prompt_id in prompt_ids]

    def ids(self) -> list[str]:
        """The prompt ids loaded, sorted."""
        return list(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self._rows

    def __iter__(self) -> Iterator[Trajectory]:
        return (row for rows in self._rows.values() for row in rows)

    def verify(self) -> None:
        """Read every byte of every file again and compare SHA-256; raises DamagedError that names all bad files."""
        bad = [entry.name for entry in _entries(self.info) if _sha256(self.store, entry.name) != entry.sha256]
        if bad:
            raise DamagedError(f"{self.store.uri}: the content of {', '.join(bad)} is not what was written. {REMEDY}")


def read_info(store: Store) -> CacheInfo:
    """`cache.json`, checked; DataError when there is none or its schema is unknown, DamagedError when unreadable."""
    if not store.exists(INFO_FILE):
        raise DataError(
            f"There is no complete guidance cache at {store.uri}: {INFO_FILE}, written last, is not there. "
            "Check the address, or let the guidance stage finish."
        )
    with reading(store, INFO_FILE, REMEDY):
        record = store.read_json(INFO_FILE)
        version = record["schema_version"]
        if version != SCHEMA_VERSION:
            raise DataError(
                f"The guidance cache {store.uri} has schema version {version}, this program reads {SCHEMA_VERSION}: "
                "use the program version that wrote it, or generate guidance again."
            )
        try:
            info = CacheInfo.model_validate(record)
        except ValidationError as error:
            raise DamagedError(f"{store.uri}: {INFO_FILE} is not a cache record ({error}). {REMEDY}") from error
    if info.rows != sum(entry.rows for entry in info.files):
        raise DamagedError(f"{store.uri}: {INFO_FILE} counts {info.rows} rows, its files hold another number. {REMEDY}")
    return info


def _check_expected(store: Store, info: CacheInfo, expect: dict) -> None:
    if unknown := set(expect) - set(FINGERPRINTS):
        raise ConfigError(f"expect names {sorted(unknown)}, must be among {', '.join(FINGERPRINTS)}.")
    for field, ours in expect.items():
        theirs = getattr(info, field)
        if theirs != ours:
            raise DataError(
                f"The guidance cache {store.uri} was made for {field} {theirs}, this run uses {ours}: "
                "generate guidance again with this model, or point to the cache made for it."
            )


def _entries(info: CacheInfo) -> list[FileEntry | IndexEntry]:
    """All files beside `cache.json`."""
    return [*info.files, *([info.index] if info.index else [])]


def check_sizes(store: Store, info: CacheInfo) -> None:
    """One listing tells a file that is missing or was cut off."""
    folder = posixpath.dirname(store.path(INFO_FILE))
    with reading(store, INFO_FILE, REMEDY):
        listed = store.fs.ls(folder, detail=True, refresh=True)
    sizes = {posixpath.basename(item["name"]): item["size"] for item in listed}
    for entry in _entries(info):
        if entry.name not in sizes:
            raise DamagedError(f"{store.uri}: the file {entry.name} is missing. {REMEDY}")
        if (size := sizes[entry.name]) != entry.bytes:
            raise DamagedError(
                f"{store.uri}: the file {entry.name} has {size} bytes, {entry.bytes} were written. {REMEDY}"
            )


class RowsOnDisk(Mapping[str, list[Trajectory]]):
    """The rows of wanted prompts, by prompt id in order; those of a file are decoded when one is first asked for.

    The bytes of their row groups are checked when it is made: whatever is damaged is known before training.

    Raises DamagedError: a row group is not what was written.
    """

    def __init__(self, store: Store, info: CacheInfo, wanted: list[str]) -> None:
        self.store, self.info, self.wanted = store, info, wanted
        index = read_index(store, info)
        self._places = index.places_of(wanted)
        groups = {group for place in self._places.values() for group in place}
        self.read = check_groups(store, info, index, np.array(sorted(groups), np.int64))
        self._first = [0, *accumulate(entry.row_groups for entry in info.files)]
        self._held: dict[int, dict[str, list[Trajectory]]] = {}

    def __getitem__(self, prompt_id: str) -> list[Trajectory]:
        groups = self._places[prompt_id]
        first, last = (bisect_right(self._first, group) - 1 for group in (groups[0], groups[-1]))
        return [row for file in range(first, last + 1) for row in self._of_file(file).get(prompt_id, [])]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self._places

    def _of_file(self, file: int) -> dict[str, list[Trajectory]]:
        """The wanted rows of a file."""
        if file not in self._held:
            rows: dict[str, list[Trajectory]] = {}
            _read_rows(self.store, self.info, self.info.files[file], self.wanted, rows, ReadCount())
            self._held[file] = rows
        return self._held[file]


def _read_rows(
    store: Store,
    info: CacheInfo,
    entry: FileEntry,
    wanted: list[str] | None,
    rows: dict[str, list[Trajectory]],
    read: ReadCount,
) -> None:
    """Add the wanted rows of a file (all for None) to `rows`."""
    with reading(store, entry.name, REMEDY):
        for batch in wanted_batches(store, entry, wanted, read):
            _check_rows(batch, len(info.reward_names))
            for row in batch_to_rows(batch):
                rows.setdefault(row.prompt_id, []).append(row)


def wanted_batches(
    store: Store, entry: FileEntry, wanted: list[str] | None, read: ReadCount, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The wanted rows of one file (all for None); nothing of it is read when none can be there."""
    if wanted is not None:
        wanted = wanted[bisect_left(wanted, entry.first) : bisect_right(wanted, entry.last)]
        if not wanted:
            return
    with reading(store, entry.name, REMEDY):
        footer = read_footer(store, entry.name)
        if footer.num_rows != entry.rows:
            raise DamagedError(f"{store.uri}: {entry.name} has {footer.num_rows} rows, not {entry.rows}. {REMEDY}")
        groups = touched_groups(footer, wanted)
        _count(read, footer, groups)
        chosen = None if wanted is None else pa.array(wanted, pa.string())
        for batch in read_groups(store, entry.name, footer, groups, columns):
            rows = batch if chosen is None else batch.filter(pc.is_in(batch.column("prompt_id"), value_set=chosen))
            if rows.num_rows:
                yield rows


def _count(read: ReadCount, footer: pq.FileMetaData, groups: list[int]) -> None:
    read.files += bool(groups)
    read.row_groups += len(groups)
    for start, stop in (byte_range(footer, group) for group in groups):
        read.bytes += stop - start


def _check_rows(batch: pa.RecordBatch, reward_count: int) -> None:
    """Raises ValueError when rows are not what a cache may hold."""
    counts, token_ids = lengths(batch.column("token_ids")), batch.column("token_ids").flatten().to_numpy()
    rewards, logprobs = batch.column("rewards").flatten(), batch.column("logprobs").flatten().to_numpy()
    if not np.array_equal(counts, lengths(batch.column("logprobs"))) or len(rewards) != batch.num_rows * reward_count:
        raise ValueError("rows hold different numbers of token_ids, logprobs or rewards")
    if counts.min() < 1 or token_ids.min() < 0:
        raise ValueError("rows hold no token ids, or negative ones")
    unknown = np.isnan(logprobs)
    if unknown.any() and not unknown.all():  # a row knows all of them or none
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        if (np.add.reduceat(unknown.astype(np.int64), starts) % counts).any():
            unknown = np.zeros_like(unknown)
    known = logprobs[~unknown]
    if len(known) and not (known.max() <= LOGPROB_SLACK and known.min() > -np.inf):
        raise ValueError("rows hold log-probs that are positive or not finite")
    if batch.column("outcome").unique().to_pylist() != ["correct"]:
        raise ValueError("rows hold an outcome other than 'correct'")


def _sha256(store: Store, name: str) -> str:
    h = hashlib.sha256()
    with reading(store, name, REMEDY), store.fs.open(store.path(name), "rb") as file:
        while block := file.read(8 * 1024 * 1024):
            h.update(block)
    return h.hexdigest()


def summary(store: Store) -> dict:
    """What a person asks of a cache; reads token ids only to count them. Raises as `GuidanceCache.open` does.

    rows, coverage (Q), lengths in tokens (min, median, mean, max), rows per guide, and the price of one cached
    trajectory in samples drawn and tokens generated.
    """
    info = read_info(store)
    check_sizes(store, info)
    tokens, per_guide = _scan(store, info)
    each = max(info.rows, 1)
    return {
        "id": info.id,
        "rows": info.rows,
        "coverage": info.coverage,
        "prompts_asked": info.prompts_asked,
        "prompts_skipped": info.prompts_skipped,
        "refused": info.refused,
        "guessed": info.guessed,
        "lengths": _spread(tokens),
        "guides": [{"id": guide.id, "step": guide.step, "rows": per_guide[guide.id]} for guide in info.guides],
        "samples_per_trajectory": info.samples_drawn / each,
        "tokens_per_trajectory": info.tokens_generated / each,
        "seconds": info.seconds,
        "files": len(info.files),
        "bytes": sum(entry.bytes for entry in info.files),
    }


def _scan(store: Store, info: CacheInfo) -> tuple[np.ndarray, Counter[str]]:
    """Completion lengths [rows], and rows per guide id."""
    tokens = [np.zeros(0, np.int64)]
    per_guide: Counter[str] = Counter()
    for entry in info.files:
        for batch in wanted_batches(store, entry, None, ReadCount(), ["token_ids", "guide"]):
            tokens.append(lengths(batch.column("token_ids")))
            per_guide.update(batch.column("guide").to_pylist())
    return np.concatenate(tokens), per_guide


def _spread(tokens: np.ndarray) -> dict[str, float] | None:
    if not len(tokens):
        return None
    middle = {"median": float(np.median(tokens)), "mean": float(tokens.mean())}
    return {"min": int(tokens.min()), **middle, "max": int(tokens.max())}
