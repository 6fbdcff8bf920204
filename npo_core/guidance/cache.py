"""Opens a guidance cache: finds a few prompts among many rows, and holds only those, in flat arrays.

Row groups are read, the wanted rows copied out, and the rest dropped batch by batch, so that memory follows the rows
asked for and not the size of the cache.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from npo_core.errors import ConfigError, DamagedError, DataError
from npo_core.guidance.info import FINGERPRINTS, INFO_FILE, SCHEMA_VERSION, CacheInfo, FileEntry
from npo_core.guidance.reader import ReadCount, between, read_footer, read_groups, reading, touched_groups
from npo_core.guidance.rows import Rows, RowsBuilder
from npo_core.guidance.trajectory import Trajectory
from npo_core.timeline.store import Store

REMEDY = "Copy the cache again from where it is whole, or remove its folder and generate guidance again."


class GuidanceCache:
    """At most one correct trajectory per prompt, by prompt id; made by `GuidanceCache.open`.

    info     the content of `cache.json`, for the whole cache
    read     what `open` had to read
    """

    def __init__(self, store: Store, info: CacheInfo, rows: Rows, read: ReadCount) -> None:
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
        when a file is missing, cut off or unreadable, StorageError when the store cannot be reached.
        """
        info = read_info(store)
        _check_expected(store, info, expect or {})
        check_sizes(store, info)
        wanted = None if prompt_ids is None else sorted(set(prompt_ids))
        builder, read = RowsBuilder(len(info.reward_names)), ReadCount()
        for entry in info.files:
            with reading(store, entry.name, REMEDY):
                for batch in wanted_batches(store, entry, wanted, read):
                    builder.add(batch)
        return cls(store, info, builder.build(), read)

    def get(self, prompt_id: str) -> Trajectory | None:
        """The trajectory of this prompt (read-only views), or None when there is none."""
        row = self._rows.find(prompt_id)
        return None if row is None else self._rows.trajectory(row)

    def lookup(self, prompt_ids: Sequence[str]) -> list[Trajectory | None]:
        """`get` for each of a batch of prompts, in order."""
        return [self.get(prompt_id) for prompt_id in prompt_ids]

    def ids(self) -> list[str]:
        """The prompt ids loaded, sorted."""
        return self._rows.ids()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, prompt_id: object) -> bool:
        return isinstance(prompt_id, str) and self._rows.find(prompt_id) is not None

    def __iter__(self) -> Iterator[Trajectory]:
        return map(self._rows.trajectory, range(len(self)))

    def verify(self) -> None:
        """Read every byte of every file again and compare SHA-256; raises DamagedError that names all bad files."""
        bad = [entry.name for entry in self.info.files if _sha256(self.store, entry.name) != entry.sha256]
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


def check_sizes(store: Store, info: CacheInfo) -> None:
    """One listing tells a file that is missing or was cut off."""
    folder = posixpath.dirname(store.path(INFO_FILE))
    with reading(store, INFO_FILE, REMEDY):
        listed = store.fs.ls(folder, detail=True, refresh=True)
    sizes = {posixpath.basename(item["name"]): item["size"] for item in listed}
    for entry in info.files:
        if entry.name not in sizes:
            raise DamagedError(f"{store.uri}: the file {entry.name} is missing. {REMEDY}")
        if (size := sizes[entry.name]) != entry.bytes:
            raise DamagedError(
                f"{store.uri}: the file {entry.name} has {size} bytes, {entry.bytes} were written. {REMEDY}"
            )


def wanted_batches(
    store: Store, entry: FileEntry, wanted: list[str] | None, read: ReadCount, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The wanted rows of one file; nothing of it is read when none can be there."""
    here = None if wanted is None else between(wanted, entry.first, entry.last)
    if here is not None and not here:
        return
    with reading(store, entry.name, REMEDY):
        footer = read_footer(store, entry.name)
        if footer.num_rows != entry.rows:
            raise DamagedError(f"{store.uri}: {entry.name} has {footer.num_rows} rows, not {entry.rows}. {REMEDY}")
        groups = touched_groups(footer, here)
        chosen = None if here is None else pa.array(here, pa.string())
        for batch in read_groups(store, entry.name, footer, groups, columns=columns, count=read):
            yield batch if chosen is None else batch.filter(pc.is_in(batch.column("prompt_id"), value_set=chosen))


def _sha256(store: Store, name: str) -> str:
    h = hashlib.sha256()
    with reading(store, name, REMEDY), store.fs.open(store.path(name), "rb") as file:
        while block := file.read(8 * 1024 * 1024):
            h.update(block)
    return h.hexdigest()
