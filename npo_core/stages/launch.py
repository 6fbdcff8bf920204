"""Outside a stage's process: start it, follow its progress, and bring back its result or its error.

A stage whose result is there is not started. What a stage leaves behind after any end is safe to start again.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from npo_core.errors import DamagedError, DeviceError, StageError, StorageError, VerifierError
from npo_core.names import ERROR_FILE, EVENTS_FILE, LOG_FILE, RESULT_FILE, SPEC_FILE, STOP_FILE
from npo_core.process import PARENT
from npo_core.stages.context import scratch_folder
from npo_core.stages.execute import STOPPED
from npo_core.stages.forked import environment, fork_server, forks
from npo_core.stages.outputs import lost
from npo_core.stages.results import RESULTS, Cost, Result
from npo_core.stages.specs import Spec
from npo_core.stages.workspace import Workspace
from npo_core.timeline.failures import as_storage_errors
from npo_core.timeline.lock import hand_on

POLL = 0.05  # seconds
RETRYABLE = {kind.exit_code: kind.__name__ for kind in (StorageError, DeviceError, VerifierError)}
R = TypeVar("R", bound=Result)
Watcher = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class StageResult(Generic[R]):
    """What a stage left: its result, and whether it had been there before."""

    stage: str
    fingerprint: str
    result: R
    seconds: float  # inside the stage's process, its start not counted
    reused: bool

    @property
    def cost(self) -> Cost:
        """What the stage cost."""
        return self.result.cost


class Process(Protocol):
    """A started stage."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        ...

    def wait(self, timeout: float) -> int:
        """The exit code as soon as there is one. Raises subprocess.TimeoutExpired."""
        ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def spawn(spec: Spec, scratch: Path) -> subprocess.Popen:
    """A stage in a new interpreter."""
    with open(scratch / LOG_FILE, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "npo_core.stages", spec.stage, str(scratch / SPEC_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**environment(spec.execution), PARENT: str(os.getpid())},
            start_new_session=True,
        )


def read_result(workspace: Workspace, spec: Spec) -> StageResult | None:
    """The result of a finished stage, or None; its outputs may be gone since (`finished` looks at them)."""
    record = workspace.store.read_json(f"{spec.folder}/{RESULT_FILE}", default=None)
    if record is None:
        return None
    if record.get("fingerprint") != spec.fingerprint:
        raise DamagedError(
            f"{workspace.uri}/{spec.folder}/{RESULT_FILE} is the result of another stage: delete the "
            "folder and start the same command again."
        )
    try:
        found = RESULTS[spec.stage].model_validate(record["result"])
    except ValidationError as error:
        raise DamagedError(
            f"{workspace.uri}/{spec.folder}/{RESULT_FILE} is no result of a stage {spec.stage} "
            f"({error.errors()[0]['msg']}): delete the folder and start the same command again."
        ) from None
    return StageResult(spec.stage, spec.fingerprint, found, record["seconds"], reused=True)


def finished(workspace: Workspace, spec: Spec) -> StageResult | None:
    """The result of a finished stage whose outputs are all there; what is damaged of them makes room for new ones."""
    done = read_result(workspace, spec)
    gone = {} if done is None else lost(workspace, spec, done.result)
    if not gone:
        return done
    for path, why in gone.items():
        print(f"{workspace.uri}/{path} {why}: stage {spec.stage} makes it anew.", file=sys.stderr, flush=True)
        workspace.store.remove(path)
    return None


def run_stage(spec: Spec, watch: Watcher = lambda event: None) -> StageResult:
    """Run a stage to its end in a process of its own, or return the result that is there.

    `watch` is told every progress event: done, total and the stage's figures.

    Raises:
        StageError: the stage failed; `retryable` says whether the same again may succeed.
        BaseException: whatever interrupts the wait; the stage's process is ended first.
    """
    workspace = Workspace(spec.workspace)
    if (done := finished(workspace, spec)) is not None:
        return done
    if workspace.store.exists(STOP_FILE):
        raise stopped(workspace)
    scratch = prepare(workspace, spec)
    process: Process = (
        fork_server(spec.execution).start(spec, scratch) if forks(spec.execution) else spawn(spec, scratch)
    )
    try:
        follow(process, scratch / EVENTS_FILE, watch)
    except BaseException:
        end(process)
        raise
    keep_records(workspace, spec, scratch)
    result = read_result(workspace, spec)
    if process.poll() != 0 or result is None:
        raise failure(workspace, spec, scratch, process.poll() or 0)
    shutil.rmtree(scratch, ignore_errors=True)
    return StageResult(result.stage, result.fingerprint, result.result, result.seconds, reused=False)


def prepare(workspace: Workspace, spec: Spec) -> Path:
    """The stage's scratch folder with its specification, and without traces of an earlier try."""
    scratch = scratch_folder(workspace, spec)
    with as_storage_errors(str(scratch), SPEC_FILE, local=True):
        scratch.mkdir(parents=True, exist_ok=True)
        for name in (ERROR_FILE, EVENTS_FILE):
            (scratch / name).unlink(missing_ok=True)
        (scratch / SPEC_FILE).write_text(spec.model_dump_json(indent=2))
        (scratch / LOG_FILE).touch()
        hand_on(workspace.store, scratch)
    workspace.store.write_json(f"{spec.folder}/{SPEC_FILE}", spec.model_dump(mode="json"))
    return scratch


def follow(process: Process, events: Path, watch: Watcher) -> None:
    """Hand every event on until the process ends."""
    lines = tail(events)
    while process.poll() is None:
        for event in next(lines):
            watch(event)
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL)
    for event in next(lines):
        watch(event)


def tail(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The complete lines that were added to a file since the last look."""
    offset, rest = 0, b""
    while True:
        with suppress(FileNotFoundError), open(path, "rb") as file:
            file.seek(offset)
            rest += file.read()
            offset = file.tell()
        *lines, rest = rest.split(b"\n")
        yield [json.loads(line) for line in lines]


def end(process: Process) -> None:
    """Ask a stage to end and wait until it has."""
    deadline = time.monotonic() + 15
    while process.poll() is None and time.monotonic() < deadline:
        process.terminate()  # every time, for a stage that is asked for may get its process only now
        time.sleep(POLL)
    if process.poll() is None:
        process.kill()


def keep_records(workspace: Workspace, spec: Spec, scratch: Path) -> None:
    """Copy log and events beside the specification, where others can read them."""
    for name in (LOG_FILE, EVENTS_FILE):
        if (scratch / name).exists():
            workspace.store.write_file(f"{spec.folder}/{name}", scratch / name)


def stopped(workspace: Workspace) -> StageError:
    """The error about the stop file."""
    return StageError(
        f"The run was stopped by the file {workspace.uri}/{STOP_FILE}: remove it and start the same command again to "
        "go on.",
        exit_code=STOPPED,
    )


def failure(workspace: Workspace, spec: Spec, scratch: Path, code: int) -> StageError:
    """The error of a stage that ended without a result."""
    if workspace.store.exists(STOP_FILE):
        return stopped(workspace)
    log = f"{workspace.uri}/{spec.folder}/{LOG_FILE}"
    if described := read_error(scratch):
        sentence = f"Stage {spec.stage}: {described['message']} ({described['kind']}; log: {log})"
        return StageError(sentence, exit_code=code, retryable=described["retryable"])
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    how += f" ({RETRYABLE[code]})" if code in RETRYABLE else ""
    return StageError(
        f"Stage {spec.stage} {how} before it had a result; starting it again goes on from what it "
        f"committed (log: {log}).",
        exit_code=code,
        retryable=code < 0 or code in RETRYABLE,
    )


def read_error(scratch: Path) -> dict[str, Any] | None:
    """What a stage said of its end; None where it said nothing, or a full disk took only part of it."""
    with suppress(OSError, ValueError):
        return json.loads((scratch / ERROR_FILE).read_text())
    return None
