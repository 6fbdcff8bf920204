"""The engine of a snapshot, for the stages that generate: in this process, or in one for each GPU."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from npo_core.config import Execution
from npo_core.engines import Engine
from npo_core.process import own_progress_lock
from npo_core.stages.context import StageContext
from npo_core.stages.forked import forks
from npo_core.stages.processes import generation_processes, gpus_each
from npo_core.stages.specs import GuideSpec, Spec
from npo_core.stages.workspace import Workspace, home

if TYPE_CHECKING:
    from npo_core.engines.dealt import Hosts


def snapshot_engine(spec: Spec, context: StageContext, snapshot: str, *, batch: int, bf16: bool) -> Engine:
    """The engine that a stage is configured with, on a snapshot; see `TransformersEngine` for the words.

    Raises:
        What `Workspace.snapshot_folder` does where the snapshot is damaged, and what the engine does.
    """
    attention = context.workspace.timeline.snapshots.get(snapshot).info.get("attention", "auto")
    folder = context.workspace.snapshot_folder(snapshot)
    there = partial(snapshot_there, context.workspace.uri, snapshot)
    return folder_engine(spec, context, folder, there, attention=attention, batch=batch, bf16=bf16)


def folder_engine(
    spec: Spec,
    context: StageContext,
    folder: Path,
    there: Callable[[], Path],
    *,
    batch: int,
    bf16: bool,
    attention: str = "auto",
) -> Engine:
    """The engine that a stage is configured with, on a model folder; in as many processes as the stage generates in.

    `there` gives a folder with the same files on any machine that takes part.
    """
    from npo_core.engines.dealt import DealtEngine
    from npo_core.engines.open import open_engine

    hosts = context.hosts
    how: dict[str, Any] = {"device": context.device, "batch": batch, "attention": attention, "bf16": bf16}
    if hosts is not None:
        return DealtEngine(hosts, there if spec.machines > 1 else folder, spec.engine, **how)
    return open_engine(folder, spec.engine, **how)


def snapshot_there(workspace: str, snapshot: str) -> Path:
    """A local folder with a snapshot's files, on the machine that asks."""
    with one_at_a_time(snapshot):
        return Workspace(workspace).snapshot_folder(snapshot)


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Of the processes of this machine, one at a time makes the folder of this name; the others find it."""
    (folder := home() / "locks").mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield


def start_hosts(spec: Spec, context: StageContext) -> "Hosts | None":
    """The processes that a stage generates in, which end with this one; None: this one alone.

    Where stages fork they are forks of this process, which may have no other thread then: a lock that one holds at a
    fork is never released in the new process. On GPUs they are new interpreters, as an accelerator does not fork.

    Raises:
        ConfigError: there are fewer GPUs than they need, which is said before anything is trained.
    """
    number = generation_processes(spec.execution, spec.engine, context.device)
    if number == 1 or not spec.generates:
        return None
    from npo_core.engines.dealt import Hosts

    return Hosts(**of_machine(spec, context.device), at_once=at_once(spec))


def of_machine(spec: Spec, device: str, machine: int = 0) -> dict[str, Any]:
    """The words of `start_managers` for a machine's share of the processes that generate."""
    from npo_core.engines.dealt import VISIBLE

    every = generation_processes(spec.execution, spec.engine, device)
    number = len(range(machine, every, spec.execution.nodes))
    devices: list[str | None] = [None] * number
    if device != "cpu":
        each, named = gpus_each(spec.engine), os.environ.get(VISIBLE, "")
        there = [name.strip() for name in named.split(",") if name.strip()] or [str(i) for i in range(number * each)]
        devices = [",".join(there[at : at + each]) for at in range(0, number * each, each)]
    start = "fork" if device == "cpu" and forks(spec.execution) else "spawn"
    arguments = (spec.execution, spec.workspace, os.getpid())
    return {"devices": devices, "start": start, "begin": begin, "arguments": arguments}


def at_once(spec: Spec) -> int:
    """What a process that generates is given at a time.

    To vLLM two parts: it fills the places of rows that have ended in one from the other. Of guidance one chunk more:
    its answers are verified while others generate.
    """
    from npo_core.engines.vllm import AT_ONCE

    return (AT_ONCE if spec.engine.kind == "vllm" else 1) + isinstance(spec, GuideSpec)


def begin(execution: Execution, workspace: str, parent: int) -> None:
    """What a process that generates does first."""
    from npo_core.stages.execute import prepare_device, watch_for_end

    own_progress_lock()
    watch_for_end(Workspace(workspace), parent)
    prepare_device(execution)
