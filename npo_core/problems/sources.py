"""Open a source: JSON Lines, Parquet, a folder of `save_to_disk`, or a data set of a hub."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npo_core.config import Source
from npo_core.errors import ConfigError, DataError, StorageError
from npo_core.hub import is_path, require_reachable
from npo_core.problems.json_rows import read_json
from npo_core.problems.parquet_types import common_types

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 256  # rows in memory at once while a data set is read


@dataclass(frozen=True)
class SourceRows:
    """The rows of a source, in its order."""

    name: str  # for messages
    folder: Path | None  # what relative paths of images start from; None on a hub
    columns: list[str]
    rows: "list[Any] | Dataset"  # a list of dicts, None where a line is no JSON object; or a Dataset of Arrow tables

    def read(self, columns: set[str]) -> Iterator[Any]:
        """Every row with some columns. Data sets stay on disk, and images stay undecoded."""
        if isinstance(self.rows, list):
            yield from self.rows
            return
        for batch in self.rows.select_columns([c for c in self.columns if c in columns]).iter(batch_size=BATCH):
            yield from batch.to_pylist()

    def cell(self, row: int, column: str) -> Any:
        """One value, images undecoded."""
        if isinstance(self.rows, list):
            return self.rows[row][column]
        return self.rows.select_columns([column])[row][column][0].as_py()


def kind_of(source: Source) -> str:
    """`jsonl`, `parquet`, `saved` or `hub`.

    Raises:
        DataError: the path is none of them.
    """
    path = Path(source.path)
    if source.format != "auto":
        return source.format
    if path.is_dir():
        if any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
            return "saved"
        if any(path.rglob("*.parquet")):
            return "parquet"
    elif path.suffix in (".jsonl", ".json", ".ndjson"):
        return "jsonl"
    elif path.suffix == ".parquet":
        return "parquet"
    elif not path.exists() and not is_path(source.path):
        return "hub"
    raise DataError(
        f"{source.path} is no JSON Lines or Parquet file, no folder with Parquet files, no folder of save_to_disk "
        "and no hub id: check the path, or name its format."
    )


def open_source(source: Source) -> SourceRows:
    """The rows of a source, the first `limit` of them.

    Raises:
        DataError: it cannot be read, or is empty.
        ConfigError: fields are set that its kind does not have.
    """
    kind = kind_of(source)
    given = [f for f in ("config", "split", "revision") if getattr(source, f) is not None]
    if unused := [f for f in given if kind not in ("hub", "saved") or (kind == "saved" and f != "split")]:
        raise ConfigError(f"{source.path} ({kind}) has no {', '.join(unused)}: leave it out, or name a hub data set.")
    table = {"jsonl": jsonl, "parquet": parquet, "saved": saved, "hub": hub}[kind](source)
    if not len(table.rows):
        raise DataError(f"{table.name} is empty: it needs a row for each problem.")
    return table


def jsonl(source: Source) -> SourceRows:
    """The rows of a JSON Lines file or a JSON array."""
    rows = read_json(source.path, source.limit)
    columns = dict.fromkeys(name for row in rows if row for name in row)
    return SourceRows(source.path, Path(source.path).absolute().parent, list(columns), rows)


def parquet(source: Source) -> SourceRows:
    """The rows of a Parquet file or folder."""
    from datasets import Dataset
    from pyarrow.dataset import ParquetFragmentScanOptions

    path = Path(source.path)
    frugal = ParquetFragmentScanOptions(use_buffered_stream=True, pre_buffer=False)  # a row group of images is large
    files = sorted(map(str, path.rglob("*.parquet"))) if path.is_dir() else [str(path)]
    folder = (path if path.is_dir() else path.parent).absolute()
    try:
        types = common_types(files, source)
        rows = Dataset.from_parquet(files, batch_size=BATCH, fragment_scan_options=frugal, **types)
    except DataError:
        raise
    except Exception as error:  # datasets wraps what pyarrow and the file system raise in kinds of its own
        raise unreadable(error, f"{source.path} cannot be read as Parquet ({reason(error)}): check the path.") from None
    return of_dataset(source, source.path, folder, rows)


def saved(source: Source) -> SourceRows:
    """The rows of a folder of `datasets.save_to_disk`."""
    from datasets import load_from_disk

    try:
        found = load_from_disk(source.path)
    except Exception as error:
        what = f"{source.path} cannot be read as a folder of save_to_disk ({reason(error)}): check the path."
        raise unreadable(error, what) from None
    if source.split is not None and not isinstance(found, dict):
        raise ConfigError(f"{source.path} holds one data set without splits: leave split = {source.split} out.")
    return of_dataset(source, source.path, Path(source.path).absolute(), found)


def hub(source: Source) -> SourceRows:
    """The rows of a hub's data set. Raises HubError, ConfigError or DataError where it cannot be loaded."""
    require_reachable("dataset", source.path)
    from datasets import load_dataset

    try:
        found = load_dataset(source.path, source.config, split=source.split, revision=source.revision)
    except Exception as error:
        raise unreadable(
            error,
            f"There is no file or folder {source.path}, and as a data set of a hub it cannot be loaded "
            f"({reason(error)}): check its id, config, split and revision, and whether this machine has a network. "
            "Without one, load it elsewhere, `save_to_disk` it, and name that folder.",
        ) from None
    return of_dataset(source, f"{source.path} (hub)", None, found)


def of_dataset(source: Source, name: str, folder: Path | None, found: Any) -> SourceRows:
    """A data set, or the split that is asked of several."""
    if isinstance(found, dict):
        split = source.split or ("train" if "train" in found else next(iter(found)) if len(found) == 1 else None)
        if split not in found:
            raise DataError(f"{name} has the splits {', '.join(found)}, not {split}: set the source's split to one.")
        found, name = found[split], f"{name}, split {split}"
    elif source.split is not None:
        name = f"{name}, split {source.split}"
    rows = found if source.limit is None else found.select(range(min(source.limit, len(found))))
    return SourceRows(name, folder, rows.column_names, rows.with_format("arrow"))  # which decodes no image


def root(error: BaseException) -> BaseException:
    """What lies behind an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def unreadable(error: Exception, sentence: str) -> DataError | StorageError:
    """The error of a source; where the disk that data sets are converted on is full, that is what is said."""
    if isinstance(cause := root(error), OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        from datasets.config import HF_DATASETS_CACHE

        return StorageError(f"{HF_DATASETS_CACHE}, where data sets are converted, is full: make room, or set HF_HOME.")
    return DataError(sentence)


def reason(error: BaseException) -> str:
    """The first line of what lies behind an error."""
    error = root(error)
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no more is said'}"
