"""The lock: one owner, freed by its death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from npo_core.errors import DamagedError, StorageError, WorkspaceBusyError
from npo_core.recipes.status import owner_alive
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Store, workspace_lock
from npo_core.timeline.lock import LEASE_S, LOCAL_OWNER, S3_LOCK

HOLDER = """
import sys, time
from npo_core.timeline import Store, workspace_lock
with workspace_lock(Store(sys.argv[1]), "npo run", renew_s=0.2):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(store: Store) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, store.uri], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def wait_until(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    """However slow the machine."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_one_at_a_time(store: Store) -> None:
    with workspace_lock(store, "first"):
        with pytest.raises(WorkspaceBusyError, match=rf"in use by 'first' \(pid {os.getpid()}, on host .*, since 20"):
            with workspace_lock(store, "second"):
                pass
    with workspace_lock(store, "third") as lease:
        lease.check()


def test_who_held_it_before_is_alive_and_holds_it_no_more(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with workspace_lock(workspace.store, "first"):
        assert owner_alive(Workspace(str(tmp_path))) is True
    assert owner_alive(workspace) is False and workspace.store.read_json(LOCAL_OWNER)["pid"] == os.getpid()


def test_it_is_freed_by_an_error_which_stays_the_error(store: Store) -> None:
    with pytest.raises(KeyError), workspace_lock(store, "first"):
        raise KeyError
    with workspace_lock(store, "second"):
        pass


def test_another_process_is_named_and_refused_at_once(store: Store) -> None:
    process = holder(store)
    try:
        began = time.monotonic()
        with pytest.raises(WorkspaceBusyError, match=f"'npo run' .pid {process.pid}, .*wait until it ends or stop"):
            with workspace_lock(store, "second"):
                pass
        assert time.monotonic() - began < LEASE_S / 3
    finally:
        kill(process)


def test_a_killed_owner_frees_a_local_lock(local_store: Store) -> None:
    kill(holder(local_store))
    with workspace_lock(local_store, "second"):
        assert local_store.read_json(LOCAL_OWNER)["owner"] == "second"


def test_a_held_lock_with_a_damaged_name_is_still_held(local_store: Store) -> None:
    with workspace_lock(local_store, "first"):
        local_store.write_bytes(LOCAL_OWNER, b"{")
        with pytest.raises(WorkspaceBusyError, match="in use by another process"):
            with workspace_lock(local_store, "second"):
                pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError), workspace_lock(Store(tmp_path / "file" / "run"), "first"):
        pass


def test_a_killed_owner_frees_an_s3_lock_when_its_lease_runs_out(s3_store: Store) -> None:
    kill(holder(s3_store))
    with pytest.raises(WorkspaceBusyError, match=r"its lease runs out in \d+ s"), workspace_lock(s3_store, "second"):
        pass
    s3_store.write_json(S3_LOCK, s3_store.read_json(S3_LOCK) | {"expires": time.time() - 0.1})
    with workspace_lock(s3_store, "third"):
        assert s3_store.read_json(S3_LOCK)["owner"] == "third"
    assert not s3_store.exists(S3_LOCK)


def test_a_lease_is_renewed(s3_store: Store) -> None:
    with workspace_lock(s3_store, "first", renew_s=0.1) as lease:
        for _ in range(4):
            before = s3_store.read_json(S3_LOCK)["expires"]
            wait_until(lambda before=before: s3_store.read_json(S3_LOCK)["expires"] > before)
            with pytest.raises(WorkspaceBusyError), workspace_lock(s3_store, "second"):
                pass
        lease.check()


@pytest.mark.parametrize("stale", [False, True])
def test_one_of_eight_wins(s3_store: Store, stale: bool) -> None:
    if stale:
        s3_store.write_json(S3_LOCK, {"token": "dead", "owner": "dead", "expires": time.time() - 1})
    won, refused = [], []
    start, leave = threading.Barrier(8), threading.Barrier(8)

    def take(number: int) -> None:
        start.wait()
        with ExitStack() as stack:
            try:
                stack.enter_context(workspace_lock(s3_store, str(number)))
                won.append(number)
            except WorkspaceBusyError:
                refused.append(number)
            leave.wait(timeout=60)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (len(won), len(refused)) == (1, 7)
    assert not s3_store.exists(S3_LOCK)


def test_a_lost_lease_is_reported_and_left_to_its_owner(s3_store: Store) -> None:
    with pytest.raises(WorkspaceBusyError, match=r"lock of s3://.* was lost to 'thief' \(pid 7\)"):
        with workspace_lock(s3_store, "first", renew_s=0.1) as lease:
            s3_store.write_json(S3_LOCK, {"token": "other", "owner": "thief", "pid": 7, "expires": time.time() + 60})
            wait_until(lambda: lease.guard.lost_to is not None)
            with pytest.raises(WorkspaceBusyError):
                lease.check()
    assert s3_store.read_json(S3_LOCK)["owner"] == "thief"


def test_a_missed_answer_does_not_lose_the_lease(s3_store: Store) -> None:
    with workspace_lock(s3_store, "first") as lease:
        lease.etag = '"of an earlier write"'
        lease.renew()
        lease.renew()
        lease.check()


def test_a_store_that_is_away_for_a_moment_does_not_lose_the_lease(
    s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with workspace_lock(s3_store, "first", renew_s=0.1) as lease:
        with monkeypatch.context() as patch:
            asked = []

            def away(*_: object) -> None:
                asked.append(1)
                raise StorageError("away")

            patch.setattr(lease.hasty, "put_if", away)
            wait_until(lambda: len(asked) >= 3)
        before = lease.expires
        wait_until(lambda: lease.expires > before)
        lease.check()


def test_a_lock_that_is_none_is_named(s3_store: Store) -> None:
    s3_store.write_bytes(S3_LOCK, b"{")
    with pytest.raises(DamagedError, match="lock.json is no lock .*delete it if no command works"):
        with workspace_lock(s3_store, "first"):
            pass
