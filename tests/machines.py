"""Two machines that are two addresses of the loopback interface; the second one joins the stages of the first."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from npo_core.stages.nodes import Place, join
from npo_core.stages.processes import PARENT

ADDRESS = "127.0.0.2"


def start(call: Callable[[], int], log: Path) -> int:
    """Call it in a fork of this process, whose output goes to a file; the process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        code = call()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Second:
    """The second machine: a process that joins with so many of its own, and all that it starts."""

    def __init__(self, port: int, log: Path, processes: int = 1):
        self.log, self.pid = log, start(lambda: join(Place(2, 1, ADDRESS, port), processes), log)

    def started(self) -> list[psutil.Process]:
        """What takes part in a stage now, and after it what it started itself."""
        return psutil.Process(self.pid).children(recursive=True)

    def hosts(self) -> list[psutil.Process]:
        """The processes that generate."""
        return [process for process in self.started() if process.ppid() != self.pid]

    def signal(self, number: int) -> None:
        """To all of them."""
        for process in [psutil.Process(self.pid), *self.started()]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def lose(self) -> None:
        """End it as a loss of power does; the kernel ends what it started."""
        os.kill(self.pid, signal.SIGKILL)
        assert ended(self.pid) == -signal.SIGKILL


def meet(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have stages that this process starts wait for a second machine at the port that is returned."""
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": ADDRESS, "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(PARENT, str(os.getpid()))
    return port


def over_two(spec, **changes):
    """The same stage over two machines, which is the same work."""
    execution = spec.execution.model_copy(update={"nodes": 2, **changes})
    assert (changed := spec.model_copy(update={"execution": execution})).fingerprint == spec.fingerprint
    return changed
