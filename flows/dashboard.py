"""Trackio's dashboard on this machine alone, beside the UI of `make serve`, with which it ends."""

import os
import sys
from contextlib import redirect_stdout

from npo_core.process import PARENT, die_with_parent

if __name__ == "__main__":
    die_with_parent(int(os.environ[PARENT]))
    import trackio

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # it prints a token, which no log should have
        trackio.show(open_browser=False, block_thread=True, host="127.0.0.1", server_port=int(sys.argv[1]))
