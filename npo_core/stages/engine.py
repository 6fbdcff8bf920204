"""The engine of a snapshot, for the stages that generate: in this process, or in one for each GPU."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from npo_core.config import Execution
from npo_core.engines import Engine
from npo_core.process import own_progress_lock
from npo_core.stages.context import StageContext
from npo_core.stages.forked import forks
from npo_core.stages.processes import generation_processes, gpus_each
from npo_core.stages.specs import GuideSpec, Spec

if TYPE_CHECKING:
    from npo_core.engines.dealt import Hosts


def snapshot_engine(spec: Spec, context: StageContext, snapshot: str, *, batch: int, bf16: bool) -> Engine:
    """The engine that a stage is configured with, on a snapshot; see `TransformersEngine` for the words.

    Raises:
        What `Workspace.snapshot_folder` does where the snapshot is damaged, and what the engine does.
    """
    attention = context.workspace.timeline.snapshots.get(snapshot).info.get("attention", "auto")
    folder = context.workspace.snapshot_folder(snapshot)
    return folder_engine(spec, context, folder, attention=attention, batch=batch, bf16=bf16)


def folder_engine(
    spec: Spec, context: StageContext, folder: Path, *, batch: int, bf16: bool, attention: str = "auto"
) -> Engine:
    """The engine that a stage is configured with, on a model folder; in as many processes as the stage generates in."""
    from npo_core.engines.dealt import DealtEngine
    from npo_core.engines.open import open_engine

    hosts, device = context.hosts, context.device
    if hosts is not None:
        return DealtEngine(hosts, folder, spec.engine, device=device, batch=batch, attention=attention, bf16=bf16)
    return open_engine(folder, spec.engine, device=device, batch=batch, attention=attention, bf16=bf16)


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
    from npo_core.engines.dealt import VISIBLE, Hosts

    devices: list[str | None] = [None] * number
    if context.device != "cpu":
        each, named = gpus_each(spec.engine), os.environ.get(VISIBLE, "")
        there = [name.strip() for name in named.split(",") if name.strip()] or [str(i) for i in range(number * each)]
        devices = [",".join(there[at : at + each]) for at in range(0, number * each, each)]
    start = "fork" if context.device == "cpu" and forks(spec.execution) else "spawn"
    arguments = (spec.execution, spec.workspace, os.getpid())
    return Hosts(devices, start=start, begin=begin, arguments=arguments, at_once=at_once(spec))


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
    from npo_core.stages.workspace import Workspace

    own_progress_lock()
    watch_for_end(Workspace(workspace), parent)
    prepare_device(execution)
