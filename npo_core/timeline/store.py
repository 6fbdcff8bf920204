"""A folder behind a URI, on a disk or in S3, whose files are there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.core import url_to_fs

from npo_core.errors import ConfigError, DamagedError
from npo_core.timeline import disk
from npo_core.timeline.failures import as_storage_errors, s3_code

_REQUIRED: Any = object()
PATTERNS = ("*", "?", "[", "]")  # what s3fs takes for a pattern, or for the mark of a version
AT_ONCE = 8  # files that are downloaded, or checked, at a time
DELETED_AT_ONCE = 1000  # keys; S3 takes no more in a request
FILES, PARTS, PART_BYTES = 2, 4, 32 * 2**20  # uploaded at once: files, parts of each; all of these are in memory
Names = list[str]  # inside the class `list` is a method


class Store:
    """A folder that holds files by relative path, with '/' between the parts.

    `uri` is a local path, `file://...` or `s3://bucket/prefix`; S3 takes credentials and AWS_ENDPOINT_URL from the
    environment, and `storage_options` go to s3fs. Raises ConfigError on any other URI. All methods raise StorageError
    where the disk or S3 refuses; S3 that does not answer is waited for first (`s3.PatientS3`).

    Example:
        store = Store("s3://runs/first")
        store.write_json("branches/main.json", {"parent": None})
    """

    def __init__(self, uri: str | Path, storage_options: dict[str, Any] | None = None) -> None:
        self.storage_options = dict(storage_options or {})
        scheme = str(uri).partition("://")[0] if "://" in str(uri) else "file"
        if scheme not in ("file", "local", "s3"):
            raise ConfigError(f"The workspace {uri} has the scheme '{scheme}': give a folder or s3://bucket/prefix.")
        self.is_local = scheme != "s3"
        self._refuse_patterns(str(uri))
        self.fs, self._root = _opened(str(uri), self.storage_options, self.is_local)
        if not self._root.strip("/") and not self.is_local:
            raise ConfigError(f"The workspace {uri} names no bucket: give s3://bucket/prefix.")
        if self.is_local:
            self._root = os.path.abspath(self._root)
        self.uri = self._root if self.is_local else f"s3://{self._root}"

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def _refuse_patterns(self, name: str) -> None:
        """Raises ConfigError where a name would be read as something else than itself."""
        found = [mark for mark in ("::", *(() if self.is_local else PATTERNS)) if mark in name]
        if found:
            raise ConfigError(
                f"{name} has {' and '.join(found)} in its name, which would be read as a pattern or as a chain of file "
                "systems: choose a name without."
            )

    def path(self, rel: str) -> str:
        """The full path of `rel` for `self.fs` (and so for pyarrow with `filesystem=store.fs`)."""
        parts = PurePosixPath(rel).parts
        if ".." in parts or rel.startswith("/"):
            raise ConfigError(f"The path '{rel}' leaves the folder {self.uri}: give a path below it.")
        self._refuse_patterns(rel)
        return "/".join([self._root.rstrip("/"), *parts])

    def local(self, rel: str) -> Path:
        """The Path of `rel`. Raises ConfigError where the store is not on this machine's file system."""
        if not self.is_local:
            raise ConfigError(f"{self.uri} is not a local folder: fetch '{rel}' to one first.")
        return Path(self.path(rel))

    def child(self, rel: str) -> Store:
        """The store of the folder `rel`."""
        full = self.path(rel)
        return Store(full if self.is_local else f"s3://{full}", self.storage_options)

    def hasty(self) -> Store:
        """The same folder for who must not wait: S3 that does not answer raises StorageError after seconds."""
        if self.is_local:
            return self
        config = {"connect_timeout": 5, "read_timeout": 10, **self.storage_options.get("config_kwargs", {})}
        return Store(self.uri, {**self.storage_options, "patience_s": 0.0, "config_kwargs": config})

    def read_bytes(self, rel: str) -> bytes:
        """The content of a file. Raises DamagedError if it is absent."""
        try:
            with self.failures(rel):
                return self.local(rel).read_bytes() if self.is_local else self.fs.cat_file(self.path(rel))
        except FileNotFoundError:
            raise DamagedError(_absent(self.uri, rel)) from None

    def write_bytes(self, rel: str, data: bytes) -> None:
        """Writes a file; a reader sees the old content or all of the new."""
        with self.failures(rel, len(data)):
            if self.is_local:
                disk.write_atomic(self.local(rel), data)
            else:
                self.fs.pipe_file(self.path(rel), data)

    def write_file(self, rel: str, file: Path) -> None:
        """Writes a local file's content, however large; a reader sees the old content or all of the new."""
        with self.failures(rel):
            if self.is_local:
                disk.copy_atomic(file, self.local(rel))
            else:
                self.fs.put_file(str(file), self.path(rel))

    def create_bytes(self, rel: str, data: bytes) -> bool:
        """Writes a file unless it exists; whether it did. Of several writers at once exactly one is told True.

        In S3 that one may be told False where the answer to it went missing: what is there then is what it wrote.
        """
        if not self.is_local:
            return self.put_if(rel, data, None) is not None
        with self.failures(rel, len(data)):
            return disk.create_atomic(self.local(rel), data)

    def read_json(self, rel: str, default: Any = _REQUIRED) -> Any:
        """The value in a JSON file, or `default` if the file is absent. Raises DamagedError if it is not JSON."""
        try:
            data = self.read_bytes(rel)
        except DamagedError:
            if default is _REQUIRED:
                raise
            return default
        try:
            return json.loads(data)
        except ValueError as error:
            raise DamagedError(
                f"{self.uri}/{rel} is not JSON ({error}; {len(data)} bytes): "
                f"delete it and start the same command again, what wrote it writes it anew."
            ) from error

    def write_json(self, rel: str, obj: Any) -> None:
        """Writes a value as JSON with sorted keys."""
        self.write_bytes(rel, json_bytes(obj))

    def exists(self, rel: str) -> bool:
        """Whether there is a file or folder `rel`."""
        with self.failures(rel):
            return self.local(rel).exists() if self.is_local else self.fs.exists(self.path(rel))

    def remove(self, rel: str) -> None:
        """Removes a file or a folder with all it holds; absent is fine."""
        with self.failures(rel):
            if self.is_local:
                disk.discard(self.local(rel))
            else:
                self._delete(self.path(rel))

    def put_folder(self, src: Path, rel: str, last: str) -> None:
        """Moves the local folder `src` to `rel`; a reader sees the file `last` only when all others are there.

        `src` is gone afterwards. A complete `rel` stays as it is, one without `last` is replaced.
        Raises DamagedError if `src` holds no `last`.
        """
        if not (src / last).is_file():
            raise DamagedError(f"{src} holds no {last}: the folder is not finished, start what writes it again.")
        with as_storage_errors(str(src), "", local=True):
            size = folder_bytes(src)
        with self.failures(rel, size):
            if self.is_local:
                disk.place_folder(src, self.local(rel), last)
            else:
                self._upload(src, rel, last)

    def fetch(self, rel: str, scratch: Path, names: Iterable[str] | None = None) -> Path:
        """A local folder with the content of the folder `rel`: itself, or a download in `scratch`.

        `names`: files of it that are wanted, whatever else is there; None: all. What was downloaded before is used as
        it is, for what is content-addressed never changes. Raises DamagedError if there is no folder `rel`.
        """
        target = self.local(rel) if self.is_local else Path(scratch).absolute() / rel
        if not self.is_local:
            if names is None:
                names = [] if target.is_dir() else self._below(rel)
            if wanted := [name for name in names if not (target / name).is_file()]:
                self._download(rel, wanted, target)
        if not target.is_dir():
            raise DamagedError(_absent(self.uri, rel))
        return target

    def clean_leftovers(self) -> Names:
        """Removes what dead writers left half written; the names removed. Only the owner of the lock may call it."""
        with self.failures(""):
            return disk.remove_dead_temps(self.local("")) if self.is_local else self._abort_uploads()

    def put_if(self, rel: str, data: bytes, etag: str | None) -> str | None:
        """S3 only: writes if the object still has `etag` (None: is absent); its new ETag, or None if it was not so."""
        with self.failures(rel, len(data)):
            if etag is None:
                return self._put_if(rel, data, {"IfNoneMatch": "*"})
            # Ceph 16 compares with the quotes, which are part of an ETag, and has none itself.
            return self._put_if(rel, data, {"IfMatch": etag}) or self._put_if(rel, data, {"IfMatch": etag.strip('"')})

    def read_tagged(self, rel: str) -> tuple[bytes, str] | None:
        """S3 only: an object's content with an ETag that is not newer than it, or None if it is absent."""
        try:
            with self.failures(rel):
                etag = self.fs.info(self.path(rel), refresh=True)["ETag"]
                return self.fs.cat_file(self.path(rel)), etag
        except FileNotFoundError:
            return None

    def list(self, rel: str = "") -> Names:
        """The sorted names of the files and folders in `rel`, without temporary ones; [] if there is no `rel`."""
        try:
            with self.failures(rel):
                full = self.path(rel)
                names = os.listdir(full) if self.is_local else self._s3_names(full)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.startswith(disk.TEMP_PREFIX))

    def _put_if(self, rel: str, data: bytes, condition: dict[str, str]) -> str | None:
        bucket, key, _ = self.fs.split_path(self.path(rel))
        for wait_s in (0.1, 0.2, 0.4, 0.8, None):
            try:
                return self.fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)["ETag"]
            except OSError as error:
                if s3_code(error) in ("PreconditionFailed", "412", "NoSuchKey"):
                    return None
                # S3 answers 409 when two conditional writes meet; which of them won shows at the next attempt.
                if wait_s is None or s3_code(error) not in ("ConditionalRequestConflict", "409"):
                    raise
                time.sleep(wait_s * random.SystemRandom().uniform(0.5, 1.0))
        raise AssertionError("the last attempt returns or raises")

    def _s3_names(self, full: str) -> set[str]:
        entries = self.fs.ls(full, detail=False, refresh=True)
        return {entry.rstrip("/").rpartition("/")[2] for entry in entries if entry.rstrip("/") != full}

    def _delete(self, full: str) -> None:
        """Deletes an object and those below it by their exact names, which s3fs's own `rm` would read as patterns."""
        bucket, key, _ = self.fs.split_path(full)
        keys = [*([key] if key else []), *self._keys(bucket, f"{key}/" if key else "")]
        for start in range(0, len(keys), DELETED_AT_ONCE):
            objects = [{"Key": name} for name in keys[start : start + DELETED_AT_ONCE]]
            answer = self.fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            if failed := answer.get("Errors"):
                raise OSError(errno.EIO, f"{len(failed)} objects were not deleted ({failed[0]})")
        self.fs.invalidate_cache()

    def _keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """The keys of a bucket that begin with a prefix."""
        more: dict[str, str] | None = {}
        while more is not None:
            page = self.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
            yield from (found["Key"] for found in page.get("Contents", []))
            more = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None

    def _upload(self, src: Path, rel: str, last: str) -> None:
        if not self.exists(f"{rel}/{last}"):
            self.remove(rel)
            names = sorted(path.relative_to(src).as_posix() for path in src.rglob("*") if path.is_file())
            for together in ([name for name in names if name != last], [last]):
                here, there = [str(src / name) for name in together], [self.path(f"{rel}/{name}") for name in together]
                self.fs.put(here, there, batch_size=FILES, max_concurrency=PARTS, chunksize=PART_BYTES)
        shutil.rmtree(src)

    def _below(self, rel: str) -> Names:
        """The names of all files in a folder and its folders."""
        with self.failures(rel):
            return [file.removeprefix(self.path(rel)).lstrip("/") for file in self.fs.find(self.path(rel))]

    def _download(self, rel: str, names: Names, target: Path) -> None:
        """Several files at a time, of those that are there; they appear in `target` once all of them have come."""
        temp = disk.temp_beside(target)
        disk.make_folder(target.parent)
        disk.remove_dead_temps(target.parent)

        def get(name: str) -> None:
            (temp / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                self.fs.get_file(self.path(f"{rel}/{name}"), str(temp / name))

        try:
            with as_storage_errors(self.uri, rel, local=False, disk=str(target.parent)):
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    list(pool.map(get, names))
                for name in filter(lambda name: (temp / name).is_file(), names):
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(temp / name, target / name)
        finally:
            shutil.rmtree(temp, ignore_errors=True)

    def _abort_uploads(self) -> Names:
        """Ends uploads in parts that nobody will finish: they stay invisible but are paid for."""
        bucket, prefix, _ = self.fs.split_path(self.path(""))
        prefix = f"{prefix}/" if prefix else ""
        ended, more = [], {"Prefix": prefix}
        while more:
            page = self.fs.call_s3("list_multipart_uploads", Bucket=bucket, **more)
            next_page = {"KeyMarker": page.get("NextKeyMarker"), "UploadIdMarker": page.get("NextUploadIdMarker")}
            more = {"Prefix": prefix, **next_page} if page.get("IsTruncated") else {}
            for upload in page.get("Uploads", []):
                with suppress(FileNotFoundError):  # ended at a try whose answer went missing
                    named = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                    self.fs.call_s3("abort_multipart_upload", **named)
                ended.append(upload["Key"].removeprefix(prefix))
        return sorted(ended)

    def failures(self, rel: str, size: int | None = None) -> AbstractContextManager[None]:
        """A context that raises StorageError where the disk or S3 refuses what is done with `rel` in it."""
        return as_storage_errors(self.uri, rel, local=self.is_local, size=size)


def json_bytes(obj: Any) -> bytes:
    """A value as readable JSON, the same bytes for equal values."""
    return (json.dumps(obj, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def folder_bytes(folder: Path) -> int:
    """The size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _opened(uri: str, given: dict[str, Any], is_local: bool) -> tuple[Any, str]:
    """The file system of a URI and the path in it."""
    if is_local:
        return url_to_fs(uri, **given)
    from npo_core.timeline.s3 import PatientS3

    return PatientS3(**_s3_options(given)), PatientS3._strip_protocol(uri)


def _s3_options(given: dict[str, Any]) -> dict[str, Any]:
    """Options for s3fs. Listings are never cached: another process may add to the workspace at any time."""
    options = {"use_listings_cache": False, **given}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    # botocore reads the variable too, but fsspec would hand out an instance made for an earlier value of it.
    if endpoint and "endpoint_url" not in options.get("client_kwargs", {}):
        options.setdefault("endpoint_url", endpoint)
    return options


def _absent(uri: str, rel: str) -> str:
    return f"{uri}/{rel} is absent: it was never finished or was deleted; start the command that writes it again."
