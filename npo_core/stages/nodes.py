"""A stage over several machines: the others wait for the first one's `accelerate launch`, and take part.

The first machine runs the recipe and starts stages; each other one runs `npo join`. torch's static rendezvous at
$MASTER_ADDR:$MASTER_PORT, a port of the first machine, brings a stage's processes together. What they are to run they
read there. Only the very first process writes to the workspace, which all machines have to reach. A stage that trains
has its processes on all machines; of one that generates the first process deals out what others compute (`elsewhere`).
"""

import json
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npo_core import __version__
from npo_core.config import Execution
from npo_core.errors import ConfigError, DeviceError, NPOError
from npo_core.process import PARENT, die_with_parent
from npo_core.stages.forked import environment
from npo_core.stages.functions import require_functions_of_run
from npo_core.stages.specs import SPECS, Spec
from npo_core.stages.workspace import Workspace

if TYPE_CHECKING:
    from torch.distributed import TCPStore

ADDRESS, PORT = "MASTER_ADDR", "MASTER_PORT"
DEFAULT_PORT = 29500
JOIN = "--join"  # argument of `python -m npo_core.stages` in the processes of machines that join
SPEC, READY = "npo/spec", "npo/ready"  # what is run; by number of a machine, what keeps it from taking part, or nothing
SIGNS, DONE = "npo/signs", "npo/done"  # by number of a machine, how many it gave; that the stage is over
GATHERING = timedelta(minutes=10)  # that a stage waits for all machines
AGAIN = 1.0  # seconds before a machine offers itself for the next stage
LOOK = 1.0  # seconds between two signs of a machine, and between two looks for them
SOON = 0.2  # seconds between two looks whether the stage is over


@dataclass(frozen=True, slots=True)
class Place:
    """Which machine of how many this is, and where they meet: an address and a port of the first, whose number is 0."""

    machines: int = 1
    machine: int = 0
    address: str = "127.0.0.1"
    port: int = 0  # a free one


def first_place(execution: Execution) -> Place:
    """That of the machine which starts stages.

    Raises:
        ConfigError: there are others, and no variable says where they find this one, or one says it wrongly.
    """
    if execution.nodes == 1:
        return Place()
    address, port = os.environ.get(ADDRESS), os.environ.get(PORT) or str(DEFAULT_PORT)
    if not address:
        raise ConfigError(
            f"execution.nodes = {execution.nodes}, but ${ADDRESS} is not set: give it the address of this machine that "
            f"the others reach, and run `npo join` there (docs/scale.md); or set execution.nodes to 1."
        )
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"${PORT} = {port} is no port: give a free one of this machine, or leave it out.")
    return Place(execution.nodes, 0, address, int(port))


def gathered(place: Place, launch: Callable[[], dict[int, int]]) -> dict[int, int]:
    """What a launcher of the first machine returns.

    Raises:
        DeviceError: not all machines came, or one was lost before its processes began.
    """
    from torch.distributed import DistError

    try:
        return launch()
    except DistError as error:
        first_line = str(error).partition("\n")[0]
        raise DeviceError(
            f"Not all machines of execution.nodes = {place.machines} met at {place.address}:{place.port} within "
            f"{GATHERING.total_seconds() / 60:g} minutes ({first_line}): run `npo join` on each other "
            "one, and see whether it reaches this address."
        ) from error


def meeting() -> "TCPStore":
    """In a process of a stage over several machines: what all of them see, held by the first machine's launcher."""
    from torch.distributed import TCPStore

    port = int(os.environ[PORT])
    return TCPStore(os.environ[ADDRESS], port, is_master=False, wait_for_workers=False, timeout=GATHERING)


def announce(spec: Spec) -> None:
    """In a stage's first process: tell those of other machines what is run, and wait until they can.

    Raises:
        ConfigError: one of them cannot.
    """
    from npo_core.stages.execute import prepare_device
    from npo_core.stages.processes import generation_processes

    store = meeting()
    found: dict[str, Any] = {"device": prepare_device(spec.execution)}  # what `auto` is here
    if spec.generates:
        found["generation_processes"] = generation_processes(spec.execution, spec.engine, found["device"])
    told = spec.model_copy(update={"execution": spec.execution.model_copy(update=found)})
    store.set(SPEC, f"{spec.stage} {told.model_dump_json()}")
    for number in range(1, spec.machines):
        if problem := store.get(f"{READY}/{number}").decode():
            raise ConfigError(problem)


class Silence:
    """How long the number of signs has stayed the same. Looks are counted, not time, as who looks may have paused."""

    def __init__(self, limit: float):
        self.limit, self.signs, self.seconds = limit, 0, 0.0

    def too_long(self, signs: int) -> bool:
        """To be asked every LOOK seconds."""
        self.seconds = self.seconds + LOOK if signs == self.signs else 0.0
        self.signs = signs
        return self.seconds > self.limit


def watch_machines(spec: Spec, error_file: Path) -> None:
    """In a stage's first process: end it once another machine has given no sign for `execution.lost_after` seconds.

    What waits for that machine would not always notice: NCCL and gloo give up after hours.
    """
    store = meeting()
    others = {number: Silence(spec.execution.lost_after) for number in range(1, spec.machines)}

    def watch() -> None:
        while True:
            for number, silence in others.items():
                if silence.too_long(store.add(f"{SIGNS}/{number}", 0)):
                    return end_for(number, spec, error_file)
            time.sleep(LOOK)

    def until_the_launcher_ends() -> None:
        with suppress(RuntimeError):  # it holds the store
            watch()

    threading.Thread(target=until_the_launcher_ends, daemon=True).start()


def end_for(number: int, spec: Spec, error_file: Path) -> None:
    """End this process, and so the stage, because a machine was lost."""
    from npo_core.stages.processes import described

    error = DeviceError(
        f"Machine {number} of execution.nodes = {spec.execution.nodes} was lost: it gave no sign for "
        f"{spec.execution.lost_after:g} seconds (execution.lost_after). Starting the stage again goes on from what it "
        "committed, once `npo join` runs on all machines."
    )
    print(error, file=sys.stderr, flush=True)
    with suppress(OSError):
        error_file.write_text(json.dumps(described(error)))
    os._exit(error.exit_code)


def dismiss() -> None:
    """In a stage's first process: tell the machines that joined that it is over."""
    meeting().set(DONE, "")


def joined() -> int:
    """In a process of a machine that joins: take part in the stage that the first process announces; its exit code."""
    from npo_core.stages import elsewhere
    from npo_core.stages.execute import main

    die_with_parent(int(os.environ[PARENT]))
    store, first_here = meeting(), os.environ["LOCAL_RANK"] == "0"
    name, asked = store.get(SPEC).decode().split(" ", 1)
    problem = obstacle(name, asked)
    if first_here:
        store.set(f"{READY}/{os.environ['GROUP_RANK']}", problem)
    if problem:
        return ConfigError.exit_code  # the first process says why
    spec = SPECS[name].model_validate_json(asked)
    os.environ |= environment(spec.execution)  # as on the first machine; what is for a GPU is read later
    if spec.generates:
        return elsewhere.generate(spec) if first_here else 0
    stay_in_touch(spec)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spec.json"
        file.write_text(asked)
        return main(name, file) or until_done()


def until_done() -> int:
    """Wait until the stage is over, or its first machine is gone; the exit code.

    A process that left before would be taken for lost while the first one writes what is last.
    """
    store = meeting()
    with suppress(RuntimeError):
        while not store.check([DONE]):
            time.sleep(SOON)
        return 0
    return DeviceError.exit_code


def stay_in_touch(spec: Spec) -> None:
    """Give signs of this machine, and have this process end soon after the first machine's launcher, which holds them.

    What waits for a process there would not always notice: NCCL gives up after hours. Nor does the store, where it gets
    no answer.
    """
    store, own, limit = meeting(), f"{SIGNS}/{os.environ['GROUP_RANK']}", spec.execution.lost_after
    given = 0

    def give() -> None:
        nonlocal given
        with suppress(RuntimeError):  # the launcher has ended
            while True:
                given = store.add(own, 1)
                time.sleep(LOOK)

    def watch() -> None:
        silence, giving = Silence(limit), threading.Thread(target=give, daemon=True)
        giving.start()
        while giving.is_alive() and not silence.too_long(given):
            time.sleep(LOOK)
        why = f"gave no answer for {limit:g} seconds" if giving.is_alive() else "has ended the stage"
        print(f"npo join: the first machine {why}", flush=True)
        os._exit(DeviceError.exit_code)

    threading.Thread(target=watch, daemon=True).start()


def on_first_machine() -> bool:
    """Whether this process is of the machine that starts stages."""
    return os.environ.get("GROUP_RANK", "0") == "0"


def obstacle(name: str, asked: str) -> str:
    """Why this machine cannot take part in the stage `name`, a sentence with the remedy; empty: it can.

    `asked`: its specification, as JSON.
    """
    number = os.environ["GROUP_RANK"]
    try:
        spec = SPECS[name].model_validate_json(asked)
    except (KeyError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        return (
            f"Machine {number} does not know what it is to run ({first_line}) with npo {__version__}: install the same "
            "version on all machines."
        )
    try:
        return missing(spec, number)
    except Exception as error:  # whatever it is: the first machine waits for a word
        traceback.print_exc()
        return f"Machine {number} cannot take part ({error!r}): see the output of its `npo join`."


def missing(spec: Spec, number: str) -> str:
    """What the machine `number` lacks for a stage, as `obstacle` says it."""
    from npo_core.stages.execute import prepare_device
    from npo_core.stages.processes import check

    here, asked = int(os.environ["LOCAL_WORLD_SIZE"]), spec.processes
    if not spec.generates and here * spec.machines != asked:
        return (
            f"Machine {number} joined with {here} processes, but execution.processes = {asked} on execution.nodes = "
            f"{spec.execution.nodes}: run `npo join --processes {asked // spec.execution.nodes}` there."
        )
    try:
        check(spec, prepare_device(spec.execution))
    except ConfigError as error:
        return f"Machine {number}: {error}"
    try:
        if spec.reads is not None:
            Workspace(spec.workspace).timeline.snapshots.get(spec.reads)
    except NPOError as error:
        return (
            f"Machine {number} does not find the run's snapshots in {spec.workspace} ({error}) With execution.nodes "
            "above 1 the workspace has to be on S3, or on a file system that all machines share."
        )
    try:
        require_functions_of_run(spec)
    except NPOError as error:
        return f"Machine {number}: {error}"
    return ""


def join(place: Place, processes: int) -> None:
    """Take part in one stage after another, with so many processes of this machine. Never returns.

    Whoever started the machines ends this one: Slurm and Kubernetes do, when the first machine's command is over.
    """
    from torch.distributed import DistError

    from npo_core.stages.processes import LAUNCHED, accelerate_launch

    os.environ |= {LAUNCHED: "1", PARENT: str(os.getpid())}
    with tempfile.TemporaryDirectory() as folder:
        while True:
            try:
                failed = accelerate_launch([JOIN], processes * place.machines, Path(folder), place)
            except (DistError, RuntimeError) as error:  # no stage yet, or its first machine is gone
                print(f"npo join: {error!r}", flush=True)
            else:
                print(f"npo join: a stage ended, {failed or 'well'}", flush=True)
            time.sleep(AGAIN)
