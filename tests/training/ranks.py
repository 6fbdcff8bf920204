"""Runs a stage's function in several processes that share its batches: forks of this one, which has imported all."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable

from npo_core.stages.processes import LAUNCHED


def in_processes(number: int, call: Callable[[], object]) -> None:
    """Call it in each of `number` processes, as ranks of one process group; fails where one of them fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [fork(rank, number, port, call) for rank in range(number)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks]
    assert codes == [0] * number, codes


def fork(rank: int, number: int, port: int, call: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)  # what this process trained before was one process
        os.environ |= {LAUNCHED: "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
        call()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
