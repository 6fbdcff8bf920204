"""Inside a stage's process: run it, write its result last, turn what goes wrong into a sentence and a code."""

import errno
import importlib
import json
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from npo_core import __version__
from npo_core.config import Execution
from npo_core.errors import ConfigError, DeviceError, NPOError, OutOfMemoryError, StorageError, WorkspaceBusyError
from npo_core.names import RESULT_FILE, STOP_FILE
from npo_core.process import PARENT, die_with_parent, own_progress_lock
from npo_core.stages import elsewhere, nodes, processes
from npo_core.stages.context import StageContext, scratch_folder
from npo_core.stages.engine import start_hosts
from npo_core.stages.specs import SPECS, Spec
from npo_core.stages.workspace import Workspace
from npo_core.timeline.lock import check_lease, go_on_under

STOPPED = 143  # exit code after a stop, as after SIGTERM


def main(name: str, spec_file: Path, parent: int | None = None) -> int:
    """Run one stage; the exit code says what kind of end it was (0: result written).

    `parent` is the process whose end ends the stage; None: the one that $NPO_PARENT names, else the one there is now.
    """
    own_progress_lock()
    spec = SPECS[name].model_validate_json(spec_file.read_text())
    workspace = Workspace(spec.workspace)
    scratch = scratch_folder(workspace, spec)
    watch = partial(watch_for_end, workspace, parent or int(os.environ.get(PARENT, os.getppid())))
    failure = attempt(spec, spec_file, workspace, scratch, watch)
    if failure is None:
        return 0
    with suppress(OSError):  # a full disk has no room for it; the exit code still tells
        if "kind" in failure:
            processes.error_file(scratch).write_text(json.dumps(failure))
    return failure["exit_code"]


def attempt(
    spec: Spec, spec_file: Path, workspace: Workspace, scratch: Path, watch: Callable[[], None]
) -> dict[str, Any] | None:
    """Run the stage in this process, or in those that it starts; what went wrong, by `processes.described`."""
    try:
        if processes.starts_others(spec):
            return processes.start_processes(spec, spec_file, scratch, prepare_device(spec.execution), watch)
        run = over_machines if spec.machines > 1 and processes.first_of_several() else execute
        run(spec, workspace, scratch, watch)
    except BaseException as error:
        with suppress(OSError):
            traceback.print_exc()
        return processes.described(as_known(error, workspace))
    return None


def over_machines(spec: Spec, workspace: Workspace, scratch: Path, watch: Callable[[], None]) -> None:
    """Run a stage whose processes are on several machines, in the very first of them."""
    nodes.announce(spec)

    def watch_all() -> None:
        watch()
        nodes.watch_machines(spec, processes.error_file(scratch))

    execute(spec, workspace, scratch, watch_all)
    nodes.dismiss()


def execute(spec: Spec, workspace: Workspace, scratch: Path, watch: Callable[[], None] = lambda: None) -> None:
    """Run the stage's function and commit what it returns; `watch` is called once this process forks no more."""
    if nodes.on_first_machine():  # on another one a file of an earlier run may lie there; that one writes nothing
        go_on_under(workspace.store, scratch)
    started, device = time.time(), prepare_device(spec.execution)
    context = StageContext(workspace, scratch, device, processes.rank())
    try:
        context.hosts = start_hosts(spec, context)  # these may be forks, so that no thread is there yet
        watch()
        if context.hosts is not None and spec.machines > 1:
            context.hosts.add(elsewhere.managers(spec.machines))
        result = importlib.import_module(f"npo_core.stages.{spec.stage}").run(spec, context)
    finally:
        if context.hosts is not None:
            context.hosts.close()
    if not context.first:
        return
    record = {
        "stage": spec.stage,
        "fingerprint": spec.fingerprint,
        "result": result.as_json(),
        "seconds": time.time() - started,
        "started": started,
        "versions": versions(),
    }
    workspace.store.write_json(f"{spec.folder}/{RESULT_FILE}", record)


def prepare_device(execution: Execution) -> str:
    """Pick the device and set what holds for the whole process. Raises ConfigError where there is no such device."""
    import torch

    torch.set_num_threads(execution.threads)
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"execution.device = cuda, but torch {torch.__version__} finds no GPU here: set it to auto or cpu, or run "
            "where there is one."
        )
    device = execution.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and execution.deterministic:  # an operation that has no such kernel warns, by name
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    return device


def versions() -> dict[str, str]:
    """What a result depends on besides its specification."""
    import importlib.metadata as metadata

    return {"npo-core": __version__, "python": platform.python_version()} | {
        name: metadata.version(name) for name in ("torch", "transformers", "trl", "peft")
    }


def watch_for_end(workspace: Workspace, parent: int) -> None:
    """End this process when its parent dies, or has died before, or a stop file appears.

    Every write is atomic, so no grace is needed.
    """
    interval = 0.5 if workspace.store.is_local else 15.0

    def watch() -> None:
        while os.getppid() == parent and not stop_asked(workspace):
            time.sleep(interval)
            end_without_lease(workspace)
        os._exit(STOPPED)

    threading.Thread(target=watch, daemon=True).start()
    die_with_parent(parent)


def stop_asked(workspace: Workspace) -> bool:
    """Whether there is a stop file; where the store does not answer, nobody asked yet."""
    try:
        return workspace.store.hasty().exists(STOP_FILE)
    except NPOError:
        return False


def end_without_lease(workspace: Workspace) -> None:
    """End this process where another one has the workspace; where the store does not answer, nobody knows yet."""
    try:
        check_lease(workspace.store)
    except WorkspaceBusyError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(error.exit_code)
    except NPOError:
        pass


def as_known(error: BaseException, workspace: Workspace) -> BaseException:
    """The project's own error for what libraries raise when disk, memory or device give out."""
    if isinstance(error, NPOError):
        return error
    text = str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text
    if full or "PytorchStreamWriter failed writing" in text:
        return StorageError(
            f"The disk behind {workspace.uri} is full: free space or choose another workspace, then start "
            "the same command again; nothing that was written is lost."
        )
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError) or "can't allocate memory" in text:
        return OutOfMemoryError(
            f"Out of memory ({text.splitlines()[0] if text else 'host'}): set lower training.micro_batch, "
            "training.generation_batch, evaluation.batch, guidance.batch or auto.probe.batch."
        )
    if processes.is_lost(error):
        return processes.LostProcess("The connection to another process of the stage broke: see the log.")
    if type(error).__name__ == "AcceleratorError":
        return DeviceError(f"The accelerator failed: {text}")
    return error
