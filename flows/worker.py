"""The worker of `make serve`: a Prefect worker that takes every process of its runs along when `make serve` dies.

    python -m flows.worker start --pool npo

A flow run is a process group of its own, which the death of worker and server alone would leave to hold the machine.
"""

import os
import threading
import time
from contextlib import suppress

import psutil

from npo_core.process import PARENT

MARK = "NPO_SERVE"  # variable that every process under one `make serve` inherits; its value tells one from another
RUN = "PREFECT__FLOW_RUN_ID"  # variable that Prefect gives the process of a flow run, and that its stages inherit


def marked(mark: str, variable: str = MARK) -> list[psutil.Process]:
    """The processes under one `make serve` that have a variable, this one left out."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ()
            if process.pid != os.getpid() and environment.get(MARK) == mark and variable in environment:
                found.append(process)
    return found


def end_marked(mark: str, variable: str = MARK) -> None:
    """Kill what still runs, and what it starts meanwhile; every write of a stage is atomic, so nothing is lost."""
    while processes := marked(mark, variable):
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=1)


def watch(parent: int, mark: str) -> None:
    """Wait for the death of whoever started this worker, then end everything."""
    while os.getppid() == parent:
        time.sleep(0.5)
    end_marked(mark)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=watch, args=(int(os.environ[PARENT]), os.environ[MARK]), daemon=True).start()
    from prefect.cli import app

    app()
