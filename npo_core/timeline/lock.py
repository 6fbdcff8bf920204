"""The lock of a workspace: one command at a time writes to it."""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import filelock

from npo_core.errors import ConfigError, DamagedError, NPOError, StorageError, WorkspaceBusyError
from npo_core.timeline.disk import make_folder, write_atomic
from npo_core.timeline.guard import GUARDS, S3_LOCK, Guard, words
from npo_core.timeline.store import Store, json_bytes

LOCAL_LOCK, LOCAL_OWNER = ".lock", ".lock.json"
LEASE_FILE = "lease.json"  # in a folder of a process that was started by the holder of a lease
LEASE_S, RENEW_S = 90.0, 20.0
CONDITIONS = (("If-None-Match", None), ("If-Match", '"0"'))  # that an object which is there does not meet
HELD: set[str] = set()  # URIs of the workspaces that this process holds
log = logging.getLogger(__name__)


class Lease(Protocol):
    """What the holder of the lock holds."""

    def check(self) -> None:
        """Raises WorkspaceBusyError if another process has taken the workspace over."""


@contextmanager
def workspace_lock(store: Store, owner: str, *, lease_s: float = LEASE_S, renew_s: float = RENEW_S) -> Iterator[Lease]:
    """Holds the workspace for this process, or raises WorkspaceBusyError at once.

    On a disk it is flock on `.lock`, which ends with its process, however that ends. In S3 it is a lease of `lease_s`
    seconds on `lock.json`, renewed every `renew_s` seconds by a thread; after its owner's death it runs out and may be
    taken over, so clocks have to agree to well within a third of `lease_s`. Where S3 is away, the thread goes on trying
    and writes wait for it; the lease is ours as long as nobody took it. `owner` says in words who works on the
    workspace. Raises WorkspaceBusyError at the end, too, if the lease was lost meanwhile; StorageError; DamagedError;
    ConfigError where S3 knows no conditional writes.
    """
    lease = LocalLease(store, owner) if store.is_local else S3Lease(store, owner, lease_s, renew_s)
    lease.acquire()
    HELD.add(store.uri)
    try:
        yield lease
    finally:
        lease.release()
        HELD.discard(store.uri)
    lease.check()


def held_here(store: Store) -> bool:
    """Whether this process holds the workspace."""
    return store.uri in HELD


def require_free(store: Store) -> None:
    """Look whether another process holds the workspace, and hold nothing oneself; nothing is written.

    Raises:
        WorkspaceBusyError: one does; it may end, or another begin, right after.
    """
    if not store.is_local:
        holder = S3Lease(store, "", LEASE_S, RENEW_S).holder()
        if holder.get("expires", 0.0) > time.time():
            raise WorkspaceBusyError(_busy(store.uri, holder))
    elif store.local(LOCAL_LOCK).exists():
        lease = LocalLease(store, "")
        if not lease.locked():
            raise WorkspaceBusyError(_busy(store.uri, lease.holder()))
        lease.release()


def hand_on(store: Store, folder: Path) -> None:
    """Leaves the lease that this process holds on a workspace in S3 in the local folder of a process it starts."""
    guard = None if store.is_local else GUARDS.get(store.path(""))
    if guard is None:
        (folder / LEASE_FILE).unlink(missing_ok=True)
    else:
        write_atomic(folder / LEASE_FILE, json_bytes({"token": guard.token, "margin_s": guard.margin_s}))


def go_on_under(store: Store, folder: Path) -> None:
    """Has this process write to a workspace in S3 only as long as the lease runs that `hand_on` left; none: always."""
    if not store.is_local and (folder / LEASE_FILE).exists():
        prefix = store.path("")
        GUARDS[prefix] = Guard(prefix, **json.loads((folder / LEASE_FILE).read_text()))


def check_lease(store: Store) -> None:
    """Raises WorkspaceBusyError if the lease that this process writes under is another's; StorageError at once."""
    guard = None if store.is_local else GUARDS.get(store.path(""))
    if guard is not None:
        found = store.hasty().read_tagged(S3_LOCK)
        guard.see(None if found is None else found[0])


class LocalLease:
    """The lock on a local folder."""

    def __init__(self, store: Store, owner: str) -> None:
        self.store = store
        self.owner = owner
        self._flock = filelock.FileLock(store.path(LOCAL_LOCK), thread_local=False)

    def acquire(self) -> None:
        """Raises WorkspaceBusyError naming the owner if another process holds it."""
        if not self.locked():
            raise WorkspaceBusyError(_busy(self.store.uri, self.holder()))
        try:
            self.store.write_json(LOCAL_OWNER, _who(self.owner))
        except BaseException:
            self._flock.release()
            raise

    def release(self) -> None:
        """Frees the lock. The name of its last owner stays, for it cannot be removed in one step with the lock."""
        self._flock.release()

    def check(self) -> None:
        """A lock of the kernel cannot be lost."""

    def locked(self) -> bool:
        """Whether the lock of the kernel is ours now."""
        with self.store.failures(LOCAL_LOCK):
            make_folder(self.store.local(""))
            try:
                self._flock.acquire(blocking=False)
            except filelock.Timeout:
                return False
        return True

    def holder(self) -> dict[str, Any]:
        """Who took it last."""
        try:
            return self.store.read_json(LOCAL_OWNER, default={})
        except DamagedError:  # who holds it is a courtesy; that it is held is certain
            return {}


class S3Lease:
    """The lock on a prefix in S3: an object that only conditional writes change."""

    def __init__(self, store: Store, owner: str, lease_s: float, renew_s: float) -> None:
        self.store, self.hasty = store, store.hasty()
        self.lease_s, self.renew_s = lease_s, renew_s
        self.who = {**_who(owner), "token": uuid.uuid4().hex}
        self.guard = Guard(store.path(""), self.who["token"], margin_s=lease_s / 3)
        self.expires = 0.0
        self.etag = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="workspace-lease", daemon=True)

    def acquire(self) -> None:
        """Raises WorkspaceBusyError naming the owner if a lease runs that is not ours; ConfigError."""
        for _ in range(5):
            if self._write(self.store, None) or self._take_over():
                break
        else:
            raise WorkspaceBusyError(_busy(self.store.uri, self._holder(self.store)[0]))
        self._require_conditions()
        GUARDS[self.guard.prefix] = self.guard
        self._thread.start()

    def _require_conditions(self) -> None:
        """Raises ConfigError where S3 does not write by conditions: two commands would both have the workspace."""
        record, before = json_bytes({**self.who, "expires": self.expires}), self.expires
        wrong = [f"ignores {name}" for name, etag in CONDITIONS if self.store.put_if(S3_LOCK, record, etag) is not None]
        if not wrong:
            self._renew(self.store)
            self.check()
            wrong = [] if self.expires > before else ["refuses If-Match"]
        if wrong:
            self.store.remove(S3_LOCK)
            raise ConfigError(
                f"The S3 of {self.store.uri} {wrong[0]}, by which commands keep each other out of a workspace: use an "
                "S3 with conditional writes, or a workspace on a disk."
            )

    def release(self) -> None:
        """Ends the renewing and deletes the lock if it is still ours."""
        self._ended.set()
        self._thread.join()
        GUARDS.pop(self.guard.prefix, None)
        try:
            # One about to run out may be taken over between reading and deleting, so it is left to its next owner.
            fresh = self.guard.lost_to is None and time.time() < self.expires - self.lease_s / 10
            if fresh and self._holder(self.hasty)[0].get("token") == self.who["token"]:
                self.hasty.remove(S3_LOCK)
        except NPOError as error:  # raised, it would hide what ended the work; the lease runs out by itself
            log.warning("the lock of %s could not be deleted: %s", self.store.uri, error)

    def check(self) -> None:
        """Raises WorkspaceBusyError if the lease was lost."""
        self.guard.check()

    def renew(self) -> None:
        """Prolongs the lease, also one that ran out if nobody took it; records the loss where another owner is found.

        Raises StorageError at once where S3 does not answer.
        """
        self._renew(self.hasty)

    def _renew(self, store: Store) -> None:
        if self._write(store, self.etag):
            return
        holder, etag = self._holder(store)
        if holder.get("token") == self.who["token"]:  # the answer to an earlier write of ours went missing
            self._have(etag, holder["expires"])
        else:
            self.guard.lost_to = holder
            log.error("the lock of %s was lost to %s", self.store.uri, words(holder))

    def _keep(self) -> None:
        wait_s = self.renew_s
        while self.guard.lost_to is None and not self._ended.wait(wait_s):
            try:
                self.renew()
                wait_s = self.renew_s
            except StorageError as error:
                wait_s = self.renew_s / 4
                log.warning("the lock of %s could not be renewed, trying again: %s", self.store.uri, error)
            except NPOError as error:
                self.guard.lost_to = {"owner": f"an unreadable {S3_LOCK}"}
                log.error("the lock of %s was lost: %s", self.store.uri, error)

    def holder(self) -> dict[str, Any]:
        """Who wrote the lease that is there."""
        return self._holder(self.store)[0]

    def _take_over(self) -> bool:
        """Whether the lease is ours now: it had run out, or is ours already. Raises WorkspaceBusyError if it runs."""
        holder, etag = self._holder(self.store)
        if not etag:
            return False
        if holder.get("token") == self.who["token"]:
            self._have(etag, holder["expires"])
            return True
        if holder.get("expires", 0.0) > time.time():
            raise WorkspaceBusyError(_busy(self.store.uri, holder))
        return self._write(self.store, etag)

    def _write(self, store: Store, etag: str | None) -> bool:
        expires = time.time() + self.lease_s
        new = store.put_if(S3_LOCK, json_bytes({**self.who, "expires": expires}), etag)
        if new is not None:
            self._have(new, expires)
        return new is not None

    def _have(self, etag: str, expires: float) -> None:
        self.etag, self.expires = etag, expires
        self.guard.until = expires

    def _holder(self, store: Store) -> tuple[dict[str, Any], str]:
        """The record in the lock and its ETag, ({}, '') if there is none. Raises DamagedError."""
        found = store.read_tagged(S3_LOCK)
        if found is None:
            return {}, ""
        try:
            holder = json.loads(found[0])
            return {**holder, "expires": float(holder["expires"])}, found[1]
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedError(
                f"{self.store.uri}/{S3_LOCK} is no lock ({error!r}): delete it if no command works on this workspace."
            ) from error


def _who(owner: str) -> dict[str, Any]:
    return {
        "owner": owner,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(sys.argv),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _busy(uri: str, who: dict[str, Any]) -> str:
    until = ""
    if "expires" in who:
        until = f"; should it have died, its lease runs out in {max(0.0, who['expires'] - time.time()):.0f} s"
    return (
        f"The workspace {uri} is in use by {words(who)}: wait until it ends or stop that process, then start the "
        f"same command again{until}."
    )
