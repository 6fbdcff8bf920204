"""The index of a guidance cache: its prompt ids, and where each row group lies and what its bytes hash to.

Parquet's footers say where row groups are, but those of a million rows take a second to read, and decoding what a few
thousand prompts touch takes more. With the index a cache is opened without either: the bytes of the row groups that
hold a wanted prompt are compared with what was written, and the rows of a file are decoded when one is asked for.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash

from npo_core.errors import DamagedError
from npo_core.guidance.info import REMEDY, CacheInfo, IndexEntry
from npo_core.guidance.parquet import reading
from npo_core.timeline.store import Store

INDEX_FILE = "index.npz"
LONGEST = 32  # characters of a prompt id
Span = tuple[int, int, int]  # first byte, number of bytes, xxh3 of them


@dataclass(slots=True)
class ReadCount:
    """What was read: files opened, row groups, and their compressed bytes (footers not counted)."""

    files: int = 0
    row_groups: int = 0
    bytes: int = 0


@dataclass
class IndexWriter:
    """Collects an index while a cache is written; rows come sorted by prompt id."""

    ids: bytearray = field(default_factory=bytearray)
    ends: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def add(self, prompt_id: str) -> None:
        """Take one more row."""
        self.ids += prompt_id.encode().ljust(LONGEST, b"\0")

    def end_group(self, span: Span) -> None:
        """The rows since the group before are a row group that lies there in its file."""
        self.ends.append(len(self.ids) // LONGEST)
        self.spans.append(span)

    def save(self, store: Store) -> IndexEntry:
        """Write the index into the cache's folder; its entry for `cache.json`. The same rows give the same bytes."""
        places = np.array([span[:2] for span in self.spans], np.int64).reshape(-1, 2)
        sink = io.BytesIO()
        np.savez(
            sink,
            ids=np.frombuffer(self.ids, f"S{LONGEST}"),
            ends=np.array(self.ends, np.int64),
            places=places,
            hashes=np.array([span[2] for span in self.spans], np.uint64),
        )
        data = sink.getvalue()
        store.write_bytes(INDEX_FILE, data)
        return IndexEntry(name=INDEX_FILE, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Index:
    """A cache's prompt ids, S32 [rows]; of each row group the rows up to its end, int64 [groups], first byte and number
    of bytes in its file, int64 [groups, 2], and the hash of these, uint64 [groups]."""

    ids: np.ndarray
    ends: np.ndarray
    places: np.ndarray
    hashes: np.ndarray

    def places_of(self, wanted: Sequence[str]) -> dict[str, range]:
        """The row groups with rows of each wanted prompt, for those that have any."""
        asked = np.array(wanted, f"S{LONGEST}")
        first, stop = (np.searchsorted(self.ids, asked, side) for side in ("left", "right"))
        starts = np.searchsorted(self.ends, first, "right").tolist()
        stops = np.searchsorted(self.ends, stop - 1, "right").tolist()
        found = zip(wanted, (stop > first).tolist(), starts, stops, strict=True)
        return {prompt_id: range(start, stop + 1) for prompt_id, there, start, stop in found if there}


def read_index(store: Store, info: CacheInfo) -> Index:
    """The index of a cache. Raises DamagedError: it is not what was written."""
    assert info.index is not None
    with reading(store, info.index.name, REMEDY):
        data = store.read_bytes(info.index.name)
        if hashlib.sha256(data).hexdigest() != info.index.sha256:
            raise DamagedError(f"{store.uri}: the content of {info.index.name} is not what was written. {REMEDY}")
        with np.load(io.BytesIO(data)) as arrays:
            return Index(**{name: arrays[name] for name in ("ids", "ends", "places", "hashes")})


def check_groups(store: Store, info: CacheInfo, index: Index, groups: np.ndarray) -> ReadCount:
    """Compare the bytes of row groups (their numbers, rising) with their hashes; what was read.

    Raises DamagedError: one is not what was written.
    """
    first = np.cumsum([0, *(entry.row_groups for entry in info.files)])
    files, sizes = np.searchsorted(first, groups, "right") - 1, index.places[groups, 1]
    buffer = memoryview(bytearray(int(sizes.max(initial=0))))
    for number in np.unique(files).tolist():
        name = info.files[number].name
        with reading(store, name, REMEDY), open(store.local(name), "rb", buffering=0) as file:
            for group in groups[files == number].tolist():
                start, size = index.places[group].tolist()
                file.seek(start)
                file.readinto(buffer[:size])
                if xxhash.xxh3_64_intdigest(buffer[:size]) != int(index.hashes[group]):
                    told = f"bytes {start} to {start + size} of {name} are not what was written"
                    raise DamagedError(f"{store.uri}: {told}. {REMEDY}")
    return ReadCount(len(np.unique(files)), len(groups), int(sizes.sum()))
