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
from typing import Any, Protocol

import filelock

from npo_core.errors import DamagedError, NPOError, StorageError, WorkspaceBusyError
from npo_core.timeline.disk import make_folder
from npo_core.timeline.store import Store, json_bytes

LOCAL_LOCK, LOCAL_OWNER, S3_LOCK = ".lock", ".lock.json", "lock.json"
LEASE_S, RENEW_S = 90.0, 20.0
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
    taken over, so clocks have to agree to well within `lease_s`. `owner` says in words who works on the workspace.
    Raises WorkspaceBusyError at the end, too, if the lease was lost meanwhile; StorageError; DamagedError.
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
        self.store = store
        self.lease_s, self.renew_s = lease_s, renew_s
        self.who = {**_who(owner), "token": uuid.uuid4().hex}
        self.expires = 0.0
        self.etag = ""
        self.lost_to: dict[str, Any] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="workspace-lease", daemon=True)

    def acquire(self) -> None:
        """Raises WorkspaceBusyError naming the owner if a lease runs that is not ours."""
        for _ in range(5):
            if self._write(None) or self._take_over():
                self._thread.start()
                return
        raise WorkspaceBusyError(_busy(self.store.uri, self._holder()[0]))

    def release(self) -> None:
        """Ends the renewing and deletes the lock if it is still ours."""
        self._ended.set()
        self._thread.join()
        try:
            # One about to run out may be taken over between reading and deleting, so it is left to its next owner.
            fresh = self.lost_to is None and time.time() < self.expires - self.lease_s / 10
            if fresh and self._holder()[0].get("token") == self.who["token"]:
                self.store.remove(S3_LOCK)
        except NPOError as error:  # raised, it would hide what ended the work; the lease runs out by itself
            log.warning("the lock of %s could not be deleted: %s", self.store.uri, error)

    def check(self) -> None:
        """Raises WorkspaceBusyError if the lease was lost."""
        if self.lost_to is not None:
            raise WorkspaceBusyError(
                f"The lock of {self.store.uri} was lost to {_words(self.lost_to)}, since this process could not renew "
                f"it for {self.lease_s:g} s: let the other one end, then start the same command again."
            )

    def renew(self) -> None:
        """Prolongs the lease; records the loss where another owner is found. Raises StorageError."""
        if self._write(self.etag):
            return
        holder, etag = self._holder()
        if holder.get("token") == self.who["token"]:  # the answer to an earlier write of ours went missing
            self.etag = etag
        else:
            self.lost_to = holder
            log.error("the lock of %s was lost to %s", self.store.uri, _words(holder))

    def _keep(self) -> None:
        while self.lost_to is None and not self._ended.wait(self.renew_s):
            try:
                self.renew()
            except StorageError as error:
                log.warning("the lock of %s could not be renewed, trying again: %s", self.store.uri, error)
            except NPOError as error:
                self.lost_to = {"owner": f"an unreadable {S3_LOCK}"}
                log.error("the lock of %s was lost: %s", self.store.uri, error)

    def holder(self) -> dict[str, Any]:
        """Who wrote the lease that is there."""
        return self._holder()[0]

    def _take_over(self) -> bool:
        """Whether the lease is ours now: it had run out, or is ours already. Raises WorkspaceBusyError if it runs."""
        holder, etag = self._holder()
        if not etag:
            return False
        if holder.get("token") == self.who["token"]:
            self.etag = etag
            return True
        if holder.get("expires", 0.0) > time.time():
            raise WorkspaceBusyError(_busy(self.store.uri, holder))
        return self._write(etag)

    def _write(self, etag: str | None) -> bool:
        expires = time.time() + self.lease_s
        new = self.store.put_if(S3_LOCK, json_bytes({**self.who, "expires": expires}), etag)
        if new is not None:
            self.etag, self.expires = new, expires
        return new is not None

    def _holder(self) -> tuple[dict[str, Any], str]:
        """The record in the lock and its ETag, ({}, '') if there is none. Raises DamagedError."""
        found = self.store.read_tagged(S3_LOCK)
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


def _words(who: dict[str, Any]) -> str:
    if not who:
        return "another process"
    details = [
        f"{word} {who[key]}" for word, key in (("pid", "pid"), ("on host", "host"), ("since", "since")) if key in who
    ]
    return f"'{who.get('owner', 'another process')}'" + (f" ({', '.join(details)})" if details else "")


def _busy(uri: str, who: dict[str, Any]) -> str:
    until = ""
    if "expires" in who:
        until = f"; should it have died, its lease runs out in {max(0.0, who['expires'] - time.time()):.0f} s"
    return (
        f"The workspace {uri} is in use by {_words(who)}: wait until it ends or stop that process, then start the "
        f"same command again{until}."
    )
