"""A stage of several processes: this one starts them and brings back the first one's failure.

They are new interpreters under `accelerate launch`; where stages fork, they are forks of this process, so that nothing
is imported again.

They share a scratch folder; only the first process (rank 0) writes there, and to the workspace. Each that fails leaves
its own error file. They end with the process that started them, and with any of them.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from npo_core.config import EngineSettings, Execution
from npo_core.errors import ConfigError, DeviceError
from npo_core.names import ERROR_FILE
from npo_core.process import PARENT
from npo_core.stages import nodes
from npo_core.stages.context import StageContext
from npo_core.stages.forked import forks
from npo_core.stages.specs import Spec

LAUNCHED = "NPO_LAUNCHED"  # variable that is set in the processes of a stage
LAUNCH_FILE = "accelerate.json"
GRACE = 5.0  # seconds between SIGTERM and SIGKILL for the rest of a stage, once one of its processes has failed
PATIENCE = timedelta(hours=2)  # that processes wait for one that downloads, renders problems or stores a snapshot


def starts_others(spec: Spec) -> bool:
    """Whether this process is to start those of the stage, rather than to be one of them."""
    return spec.processes > 1 and LAUNCHED not in os.environ


def first_of_several() -> bool:
    """Whether this is the first process of a stage that has others."""
    return LAUNCHED in os.environ and rank() == 0


def rank() -> int:
    """Which process of the stage this is; the first is 0."""
    return int(os.environ["RANK"]) if LAUNCHED in os.environ else 0


def error_file(scratch: Path) -> Path:
    """Where this process says why it failed."""
    return scratch / (f"error-{rank()}.json" if LAUNCHED in os.environ else ERROR_FILE)


@contextmanager
def in_turn(context: StageContext) -> Iterator[None]:
    """The first process does what is inside before the others, then the first of each other machine.

    The others find what these wrote or fetched.
    """
    if LAUNCHED not in os.environ:
        yield
        return
    from accelerate import PartialState

    state = PartialState(cpu=context.device == "cpu", timeout=PATIENCE)
    with state.main_process_first(), state.local_main_process_first():
        yield


def start_processes(
    spec: Spec, spec_file: Path, scratch: Path, device: str, watch: Callable[[], None]
) -> dict[str, Any] | None:
    """Run a stage in its processes until all have ended.

    Args:
        watch: starts the thread that ends this process with its parent. Where stages fork it comes after the forks: a
            lock that a thread holds at a fork is never released in the new process.

    Returns:
        None, or what the process that failed by itself said: kind, message, retryable, exit_code; the last alone where
        it said nothing.

    Raises:
        ConfigError: there are fewer GPUs than processes.
    """
    from accelerate.utils import patch_environment

    place = nodes.first_place(spec.execution)
    check(spec, device)
    for file in scratch.glob("error-*.json"):
        file.unlink()
    variables = {LAUNCHED: "1", PARENT: str(os.getpid())}
    if place.machines == 1:
        variables["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    if device == "cpu":  # also where there is a GPU
        variables["CUDA_VISIBLE_DEVICES"] = ""
    with patch_environment(**variables):
        if forks(spec.execution) and place.machines == 1:
            codes = fork_launch(spec, spec_file, watch)
        else:
            watch()
            asked = ([spec.stage, str(spec_file)], spec.processes, scratch, place)
            codes = nodes.gathered(place, partial(accelerate_launch, *asked))
    return first_failure(scratch, spec.processes, codes) if codes else None


def accelerate_launch(arguments: list[str], processes: int, folder: Path, place: nodes.Place) -> dict[int, int]:
    """`accelerate launch --module npo_core.stages ...` with a configuration of its own, so that a machine's has no say.

    Args:
        processes: of all machines. folder: where the configuration is written.

    Returns:
        The exit codes (negative: signals) of this machine's processes that had failed when the rest was ended, by rank.
    """
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command, launch_command_parser
    from accelerate.utils import patch_environment
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    cluster = ClusterConfig(
        compute_environment="LOCAL_MACHINE",
        distributed_type="MULTI_GPU",  # one process a GPU; where the stage is told to use the CPU, it does
        mixed_precision="no",  # the trainer's own arguments say
        use_cpu=False,
        debug=False,
        num_processes=processes,
        num_machines=place.machines,
        machine_rank=place.machine,
        same_network=True,
        gpu_ids="all",
        main_process_ip=place.address,
        main_process_port=place.port,
    )
    (folder / LAUNCH_FILE).write_text(json.dumps(cluster.to_dict()))
    options = ["--config_file", str(folder / LAUNCH_FILE)]
    if place.machines > 1:
        options += ["--rdzv_conf", f"timeout={int(nodes.GATHERING.total_seconds())}"]
    options += ["--module", "npo_core.stages", *arguments]
    try:
        # A signal ends this process at once, as it does any stage; the kernel then ends those that it started.
        with patch_environment(TORCHELASTIC_SIGNALS_TO_HANDLE="SIGUSR1"):
            launch_command(launch_command_parser().parse_args(options))
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    return {}


def fork_launch(spec: Spec, spec_file: Path, watch: Callable[[], None]) -> dict[int, int]:
    """Processes that are forked from this one, which holds the store where they meet; those that failed, as above.

    The store has threads, so that it is made after the forks, of a port that listens before.
    """
    from accelerate.utils import patch_environment
    from torch import multiprocessing
    from torch.distributed import TCPStore

    meeting = socket.create_server(("127.0.0.1", 0), backlog=spec.processes)  # at a free port
    port = meeting.getsockname()[1]
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    variables |= {"WORLD_SIZE": str(spec.processes), "LOCAL_WORLD_SIZE": str(spec.processes)}
    with patch_environment(**variables):
        started = multiprocessing.start_processes(
            forked, (spec.stage, spec_file, meeting), spec.processes, join=False, start_method="fork"
        )
    watch()
    fd = meeting.detach()  # the store closes it
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=fd)
    with suppress(multiprocessing.ProcessExitedException):  # it has ended the rest by then
        while not started.join(grace_period=GRACE):
            pass
    del store
    codes = {rank: process.exitcode for rank, process in enumerate(started.processes)}
    return {rank: code for rank, code in codes.items() if code}


def forked(rank: int, stage: str, spec_file: Path, meeting: socket.socket) -> None:
    """In a forked process: the stage, as the rank that it is. Never returns."""
    from npo_core.stages.execute import main

    meeting.close()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    code = main(stage, spec_file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def first_failure(scratch: Path, processes: int, codes: dict[int, int]) -> dict[str, Any]:
    """What ended a stage: an error of one of its processes, before a death or an end without a word, before what
    others saw of that.

    Args:
        codes: exit codes (negative: signals) of the processes that had failed when the rest was ended.
    """
    said = [json.loads(file.read_text()) for file in sorted(scratch.glob("error-*.json"))]
    own = [described for described in said if not described["consequence"]]
    if own:
        return own[0]
    silent = [code for rank, code in codes.items() if code > 0 and not (scratch / f"error-{rank}.json").exists()]
    died = [(code == -signal.SIGTERM, rank, code) for rank, code in codes.items() if code < 0]
    asked = all(by_us for by_us, _, _ in died)  # SIGTERM is what the rest is ended with
    if silent and asked:
        return {"exit_code": silent[0]}  # its lease was another's, or it found the stop file
    if died:
        _, rank, code = min(died)
        return described(
            DeviceError(
                f"Process {rank} of {processes} was killed by signal {-code}: starting the stage again goes on from "
                "what it committed."
            )
        )
    return said[0]


def described(error: BaseException) -> dict[str, Any]:
    """What an error file says."""
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "retryable": getattr(error, "retryable", False),
        "exit_code": getattr(error, "exit_code", 70),
        "consequence": isinstance(error, LostProcess),
    }


class LostProcess(DeviceError):
    """Another process of the stage ended, or cannot be reached; why, that one knows."""


def is_lost(error: BaseException) -> bool:
    """Whether an error says that a connection between processes broke."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in names or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def check(spec: Spec, device: str) -> None:
    """Raises ConfigError where this machine has fewer GPUs than its part of the stage needs."""
    if spec.generates:
        generation_processes(spec.execution, spec.engine, device)
    else:
        check_devices(spec.processes, device, spec.machines)


def check_devices(processes: int, device: str, machines: int = 1) -> None:
    """Raises ConfigError where there are fewer GPUs than processes of this machine, which need one each."""
    import torch

    if device == "cuda" and torch.cuda.device_count() < processes // machines:
        spread = f" on execution.nodes = {machines}" if machines > 1 else ""
        raise ConfigError(
            f"execution.processes = {processes}{spread}, but this machine has {torch.cuda.device_count()} GPUs: "
            "each process needs one, lower execution.processes."
        )


def generation_processes(execution: Execution, engine: EngineSettings, device: str) -> int:
    """How many processes of all machines generate: as configured, else one for each GPU, or for each group that vLLM
    splits over. Machines are alike.

    Raises:
        ConfigError: this machine has fewer GPUs than its part of them needs.
    """
    machines = execution.nodes
    if device == "cpu":
        return execution.generation_processes or machines
    import torch

    there, each = torch.cuda.device_count(), gpus_each(engine)
    most = machines * max(there // each, 1)
    number = execution.generation_processes or most
    here = -(-number // machines)
    if number > 1 and here * each > there:
        spread = f" on execution.nodes = {machines}" if machines > 1 else ""
        need = f"{here * each} GPUs" + (" each" if machines > 1 else "")
        raise ConfigError(
            f"execution.generation_processes = {number}{spread} need {need}, and this machine has {there}: set at most "
            f"{most}, or leave it out."
        )
    return number


def gpus_each(engine: EngineSettings) -> int:
    """GPUs of a process that generates."""
    return engine.tensor_parallel if engine.kind == "vllm" else 1
