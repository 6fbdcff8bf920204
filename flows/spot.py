"""A Prefect worker for a machine that may be taken away: on SIGTERM its runs go back into the queue.

    python -m flows.spot start --pool npo --type process

The worker takes no more runs, the processes of its runs are ended, each run becomes AwaitingRetry, and the next worker
of the pool takes it up from its last snapshot. Under systemd set `KillMode=mixed`, so that this process alone gets the
SIGTERM.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from uuid import UUID

import psutil

from flows.worker import RUN

GRACE = 20.0  # seconds for a run to end; every write of a stage is atomic, so less would do


def processes(worker: psutil.Process) -> dict[UUID, list[psutil.Process]]:
    """The processes of each run of a worker."""
    found: dict[UUID, list[psutil.Process]] = {}
    for process in worker.children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if run := process.environ().get(RUN):
                found.setdefault(UUID(run), []).append(process)
    return found


def leave(worker: psutil.Process) -> list[UUID]:
    """End a worker and its runs, and put these back into the queue; their ids."""
    worker.suspend()  # it would start a run that goes back, and report one that ends as crashed
    runs = processes(worker)
    all_ = [process for found in runs.values() for process in found]
    for process in all_:
        with suppress(psutil.Error):
            process.terminate()
    for process in psutil.wait_procs(all_, GRACE)[1]:
        with suppress(psutil.Error):
            process.kill()
    worker.kill()
    return [run for run in runs if put_back(run)]


def put_back(run: UUID) -> bool:
    """Schedule a run again, unless it ended by itself or somebody cancels it."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.states import AwaitingRetry

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        if state is None or state.type not in (StateType.RUNNING, StateType.PENDING, StateType.CRASHED):
            return False
        message = "Its machine was taken away. The next worker goes on from the last snapshot."
        client.set_flow_run_state(run, AwaitingRetry(message=message), force=True)
    return True


def main() -> None:
    """Run the worker until it ends or this process is told to leave."""
    worker = subprocess.Popen([sys.executable, "-m", "prefect", "worker", *sys.argv[1:]], start_new_session=True)

    def asked(*_: object) -> None:
        runs = leave(psutil.Process(worker.pid))
        print(f"Left: {len(runs)} runs wait for another machine.", flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, asked)
    sys.exit(worker.wait())


if __name__ == "__main__":
    main()
