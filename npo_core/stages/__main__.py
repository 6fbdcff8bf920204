"""`python -m npo_core.stages NAME SPEC.json` runs one stage; `--serve` keeps a preloaded parent that forks stages."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        from npo_core.stages.forkserver import serve

        serve(int(sys.argv[2]))
    elif len(sys.argv) == 3:
        from npo_core.stages.execute import main

        code = main(sys.argv[1], Path(sys.argv[2]))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # all is written; threads of libraries may abort a process that is taken down piece by piece
    else:
        sys.exit("usage: python -m npo_core.stages NAME SPEC.json")
