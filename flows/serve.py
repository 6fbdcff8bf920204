"""`make serve`: Prefect server, worker, automations and the deployments of prefect.yaml on one machine.

    npo serve [--port 4200] [--runs 1] [--trackio 7860]

Everything ends with this process. Started again over the same database, it finds what is there.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import yaml
from filelock import FileLock, Timeout

from flows.server import prefect_home, start_process, start_server, wait_until_healthy
from flows.worker import MARK, RUN, end_marked
from npo_core.errors import ConfigError, NPOError
from npo_core.stages.workspace import home

if TYPE_CHECKING:
    from prefect.client.schemas.filters import FlowRunFilter

CHECKOUT = Path(__file__).parents[1]
AUTOMATIONS = CHECKOUT / "deployments" / "automations.yaml"
POOL = "npo"
DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # a click is followed at once; the server is on this machine
    # A run that was cancelled while the worker took it has a place in the work pool until then; it would be 300.
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS": "60",
    # By then `tell_late` has marked it, with a message. It would be 15, and what is late is not marked again.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "60",
}
GRACE = 20.0  # seconds that runs have to say that they end
ACTIVE = ["PENDING", "RUNNING", "CANCELLING"]  # types of states with a place in the work pool
TELL_LATE = 5.0  # seconds between looks for runs that wait
LATE = timedelta(seconds=10)  # behind its time a run is late
AFTERWARDS = "Where another run takes the place first, Logs says so."
STEADY = 10.0  # seconds; a process that lived shorter ended early
TITLES = {"server": "The Prefect server", "worker": "The Prefect worker", "trackio": "Trackio's dashboard"}
MOST = 3  # early ends in a row, after which it is not started again


class Machine:
    """The server and the worker of this machine, and Trackio's dashboard, kept alive until told to end."""

    def __init__(self, port: int, runs: int, trackio: int | None = None):
        self.port, self.runs, self.trackio = port, runs, trackio
        self.mark = os.environ[MARK] = uuid4().hex
        self.processes: dict[str, subprocess.Popen] = {}
        self.started: dict[str, float] = {}
        self.early: Counter[str] = Counter()
        self.told_late: set[tuple[UUID, str]] = set()

    def start(self, name: str) -> None:
        """Start the server, the worker or the dashboard."""
        if name == "server":
            self.processes[name], os.environ["PREFECT_API_URL"] = start_server(self.port)
        elif name == "trackio":
            self.processes[name] = start_process("flows.dashboard", [str(self.trackio)], "trackio.log")
        else:
            # No --limit: the pool has one, and with a limit of its own a worker dies of a Retry pressed too soon.
            arguments = ["start", "--pool", POOL, "--name", socket.gethostname()]
            self.processes[name] = start_process("flows.worker", ["worker", *arguments], "worker.log")
        self.started[name] = time.monotonic()

    def set_up(self) -> None:
        """The address answers, and everything that a click needs is there."""
        self.start("server")
        import prefect.client.orchestration  # noqa: F401  takes a second, in which the server starts

        wait_until_healthy(self.processes["server"], os.environ["PREFECT_API_URL"])
        make_pool(self.runs)
        close_dead_runs()
        self.start("worker")
        if self.trackio:
            self.start("trackio")
        deploy()
        make_automations()

    def keep_alive(self) -> None:
        """Start again what was killed, until this process is told to end.

        Raises:
            NPOError: it does not stay alive.
        """
        told = time.monotonic()
        while True:
            if time.monotonic() - told > TELL_LATE:
                told = time.monotonic()
                with suppress(Exception):  # the server may be away
                    self.told_late |= tell_late(self.runs, self.told_late)
            for name, process in list(self.processes.items()):
                if process.poll() is None:
                    continue
                ended_early = time.monotonic() - self.started[name] < STEADY
                self.early[name] = self.early[name] + 1 if ended_early else 0
                if self.early[name] == MOST:
                    raise NPOError(f"{TITLES[name]} ends again and again: see {prefect_home() / name}.log.")
                print(f"{TITLES[name]} was killed and is started again.", flush=True)
                if name == "worker":
                    self.end_runs()
                self.start(name)
            time.sleep(0.5)

    def end_runs(self) -> None:
        """End the runs of a worker that is gone: nobody could cancel them, and their output goes into a broken pipe."""
        end_marked(self.mark, RUN)
        wait_until_healthy(self.processes["server"], os.environ["PREFECT_API_URL"])
        close_dead_runs()

    def end(self) -> None:
        """End the worker and its runs while the server can still note it, then the server, then what is left."""
        for name in ("worker", "server"):
            if name in self.processes:
                self.processes[name].terminate()
                try:
                    self.processes[name].wait(GRACE)
                except subprocess.TimeoutExpired:
                    self.processes[name].kill()
        end_marked(self.mark)


def make_pool(runs: int) -> None:
    """The work pool, whose limit keeps runs of all deployments from sharing the accelerator."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=runs), overwrite=True)


def in_states(**wanted: list[str]) -> "FlowRunFilter":
    """The filter for flow runs in states of these names or types."""
    from prefect.client.schemas.filters import FlowRunFilter

    return FlowRunFilter.model_validate({"state": {field: {"any_": of} for field, of in wanted.items()}})


def close_dead_runs() -> None:
    """Mark runs that ended with an earlier `make serve` as crashed, for as running they would keep their place."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=in_states(type=ACTIVE),
            work_pool_filter=filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=[POOL])),
        )
        for run in runs:
            state = Crashed(message="The worker ended during the run. Retry goes on from its last snapshot.")
            client.set_flow_run_state(run.id, state, force=True)


def tell_late(most: int, told: set[tuple[UUID, str]]) -> set[tuple[UUID, str]]:
    """Say of each run that waits for a place in the work pool which runs have the places.

    It becomes Late with that message, which the server takes only where it is still scheduled; its log says it, too,
    and again where others take the places.

    Args:
        most: runs at once. told: who was told what before.
    Returns: who was told what now.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.actions import LogCreate
    from prefect.states import Late

    pool = filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=[POOL]))
    wanted = in_states(type=["SCHEDULED"])
    wanted.next_scheduled_start_time = filters.FlowRunFilterNextScheduledStartTime(before_=datetime.now(UTC) - LATE)
    with get_client(sync_client=True) as client:
        waiting = client.read_flow_runs(flow_run_filter=wanted, work_pool_filter=pool)
        if not waiting:
            return set()
        busy = client.read_flow_runs(flow_run_filter=in_states(type=ACTIVE), work_pool_filter=pool)
        message = what_it_waits_for([run.name for run in busy], most)
        for run in waiting:
            if run.state_name == "Scheduled":
                late = Late(scheduled_time=run.next_scheduled_start_time, message=f"{message} {AFTERWARDS}")
                client.set_flow_run_state(run.id, late)
        new = {(run.id, message) for run in waiting} - told
        now, level = datetime.now(UTC), logging.INFO
        logs = [LogCreate(name=POOL, level=level, message=m, timestamp=now, flow_run_id=id_) for id_, m in new]
        if logs:
            client.create_logs(logs)
    return new


def what_it_waits_for(busy: Sequence[str], most: int) -> str:
    """The sentence about runs that wait: who has the places, and how many there are."""
    names = " and ".join(sorted(f"'{name}'" for name in busy)) or "a free worker"
    places = f"{most} run{'s' * (most > 1)} at a time (make serve RUNS={most + 1} allows more)"
    return f"It waits for {names}. There {'are' if most > 1 else 'is'} {places}."


def make_automations() -> None:
    """Create what deployments/automations.yaml lists, or bring it up to date."""
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    with get_client(sync_client=True) as client:
        for values in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
            automation = AutomationCore.model_validate(values)
            for old in client.read_automations_by_name(automation.name):
                client.delete_automation(old.id)
            client.create_automation(automation)


def deploy() -> None:
    """`prefect deploy --all`, which updates what is there.

    Raises:
        NPOError: with what Prefect said.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise NPOError(f"prefect deploy --all failed:\n{done.stdout}{done.stderr}")


@contextmanager
def only_one() -> Iterator[None]:
    """Raises ConfigError where another `make serve` works over the same database."""
    lock = FileLock(prefect_home() / "serve.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"Another `make serve` works over the database in {prefect_home()}: end it, or give this one a folder of "
            "its own with PREFECT_HOME."
        ) from None
    with lock:
        yield


def check_dashboard(port: int) -> None:
    """Raises ConfigError where Trackio is not installed, or something else listens."""
    if find_spec("trackio") is None:
        raise ConfigError(
            "--trackio is given, and Trackio is not installed here: run `pip install trackio`, or serve without it."
        )
    check_port(port, "TRACKIO=7861")


def check_port(port: int, other: str = "PORT=4300") -> None:
    """Raises ConfigError where something else listens; `other` is a way to choose another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} cannot be used ({error.strerror}): end the other program, perhaps another "
                f"`make serve`, or choose a port, for example `make serve {other}`."
            ) from None


WELCOME = """
Prefect     http://127.0.0.1:{port}
Run         Deployments > smoke > Run > Quick run: half a minute. Custom run shows the form, filled from the preset.
Watch       the run's page: tasks, logs, and an artifact for each stage
Stop        Cancel on the run's page ends every process of the run
Go on       Retry on the run's page: finished stages are not run again
At once     {runs} of these runs; the others wait (make serve RUNS=2 allows more)
Terminal    PREFECT_API_URL=http://127.0.0.1:{port}/api npo run ... is shown here too
Workspaces  {workspaces}
Trackio     {trackio}
Logs        {logs}
Ready after {seconds:.0f} s. Ctrl-C ends server, worker and runs.
"""


def serve(port: int, runs: int, trackio: int | None) -> None:
    """Set up and serve until SIGINT or SIGTERM."""
    started = time.monotonic()
    check_port(port)
    if trackio:
        check_dashboard(trackio)
    machine = Machine(port, runs, trackio)
    try:
        machine.set_up()
        print(
            WELCOME.format(
                port=port,
                runs=runs,
                workspaces=os.environ.get("NPO_RUNS") or home() / "runs",
                trackio=f"http://127.0.0.1:{trackio}" if trackio else "not started (make serve TRACKIO=7860)",
                logs=f"{prefect_home()}/server.log, worker.log",
                seconds=time.monotonic() - started,
            ),
            flush=True,
        )
        machine.keep_alive()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave behind what is being ended
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        machine.end()


def main(port: int, runs: int, trackio: int | None = None) -> None:
    """Serve until told to end, and exit.

    Args:
        port: of the address in the browser. runs: flow runs at once, one for each GPU.
        trackio: port of Trackio's dashboard; None: it is not started.
    """
    for sign in (signal.SIGINT, signal.SIGTERM):  # also where a shell made a background command ignore Ctrl-C
        signal.signal(sign, signal.default_int_handler)
    os.environ |= {"NPO_HOME": str(home().absolute())} | {k: os.environ.get(k, v) for k, v in DEFAULTS.items()}
    try:
        with only_one():
            serve(port, runs, trackio)
    except KeyboardInterrupt:
        print("Ended: server, worker and runs.", flush=True)
    except NPOError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
