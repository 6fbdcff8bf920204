"""A GPU of a machine serves one deployed run at a time: a lock a GPU, which the kernel frees however a run ends."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from prefect.logging import get_run_logger
from prefect.runtime import deployment

from npo_core.config import RunConfig
from npo_core.stages.workspace import home

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible() -> list[str]:
    """The GPUs that this process may use, as the variable names them."""
    if (said := os.environ.get(VISIBLE)) is not None:
        return [name.strip() for name in said.split(",") if name.strip()]
    return [str(number) for number, _ in enumerate(sorted(Path("/proc/driver/nvidia/gpus").glob("*")))]


def wanted(config: RunConfig) -> int:
    """How many GPUs of this machine a run uses at once."""
    execution, each = config.execution, config.engine.tensor_parallel if config.engine.kind == "vllm" else 1
    generating = -(-(execution.generation_processes or 1) // execution.nodes) * each
    training = execution.processes // execution.nodes
    return 0 if execution.device == "cpu" else max(training, config.engine.tensor_parallel, generating)


def take(there: list[str], number: int) -> dict[str, FileLock]:
    """The locks of so many GPUs that are free now, by their names; of none where there are too few."""
    folder = home() / "gpus"
    folder.mkdir(parents=True, exist_ok=True)
    held: dict[str, FileLock] = {}
    for name in there:
        lock = FileLock(folder / f"{name.replace('/', '-')}.lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            continue
        held[name] = lock
        if len(held) == number:
            return held
    for lock in held.values():
        lock.release()
    return {}


@contextmanager
def own_gpus(config: RunConfig) -> Iterator[None]:
    """Wait for as many free GPUs as a deployed run uses, and show it and its stages no others."""
    there = visible()
    number = min(wanted(config), len(there))
    if deployment.id is None or not number:
        yield
        return
    told = False
    while not (held := take(there, number)):
        if not told:
            get_run_logger().info("Waits for %d of the GPUs %s, which other runs have.", number, ", ".join(there))
            told = True
        time.sleep(1)
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(held)
    get_run_logger().info("Has the GPUs %s.", os.environ[VISIBLE])
    try:
        yield
    finally:
        os.environ.pop(VISIBLE) if before is None else os.environ.update({VISIBLE: before})
        for lock in held.values():
            lock.release()
