"""What a child process owes its parent: to end with it, and to keep its standard output clean.

Stands alone: the process with vLLM, beside which npo_core need not be installed, loads this file too.
"""

import ctypes
import os
import platform
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

PARENT = "NPO_PARENT"  # variable with the process id of who started a process, where no argument says it
SET_PDEATHSIG = 1
KEEP = "NPO_KEEP_VARIABLES"
SECRET = re.compile(
    "AWS_(ACCESS|SECRET|SESSION|SECURITY)|PREFECT_(API_(KEY|AUTH|URL)|SERVER_|CLIENT_CUSTOM)"
    "|WANDB_API_KEY|MLFLOW_TRACKING_|NPO_(NOTIFY_URL|API_AUTH)"
)
ORPHANED = 143  # exit code of a process whose parent was gone before it could ask, as after SIGTERM


def die_with_parent(parent: int) -> None:
    """On Linux, have the kernel kill this process at once when its parent is gone; end it now where that was before.

    Args:
        parent: process id of the parent, told by whoever started this process: once orphaned, nobody can ask for it.
    """
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGKILL)
    end_if_orphaned(parent)


def end_if_orphaned(parent: int) -> None:
    """End this process, whatever it is at, where its parent is gone."""
    if os.getppid() != parent:
        os._exit(ORPHANED)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the credentials of store, server and trackers, which what verifies has no use for.

    Other keys stay, such as those of a judge that somebody's own function asks, and what $NPO_KEEP_VARIABLES names.
    """
    kept = environment.get(KEEP, "").split(",")
    return {name: value for name, value in environment.items() if name in kept or not SECRET.match(name)}


def own_stdout() -> int:
    """Keep standard output for what is written to the descriptor that is returned; all that prints goes to the log.

    Libraries, users' functions and their children write to descriptor 1: from here on it is standard error.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def own_progress_lock() -> None:
    """Give this process a lock of its own for tqdm's bars.

    tqdm's default is a semaphore that forked processes share: one that is killed while it holds it, as every loading of
    a model does for a moment, would have all others wait for good.
    """
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Inside it, whatever is printed goes to standard error: a command's standard output is its own."""
    kept = own_stdout()
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
