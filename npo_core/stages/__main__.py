"""`python -m npo_core.stages NAME SPEC.json` runs one stage; `--serve` keeps a preloaded parent that forks stages.

`--join` takes part in a stage of another machine.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        from npo_core.stages.forkserver import serve

        serve(int(sys.argv[2]))
    elif len(sys.argv) == 3 or sys.argv[1:] == ["--join"]:
        from npo_core.stages.execute import main
        from npo_core.stages.nodes import joined

        code = joined() if len(sys.argv) == 2 else main(sys.argv[1], Path(sys.argv[2]))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # all is written; threads of libraries may abort a process that is taken down piece by piece
    else:
        sys.exit("usage: python -m npo_core.stages NAME SPEC.json")
