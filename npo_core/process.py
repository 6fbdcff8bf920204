"""What a child process owes its parent."""

import ctypes
import platform
import signal

SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """On Linux, have the kernel kill this process at once when its parent is gone."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGKILL)
