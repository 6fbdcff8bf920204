"""`python -m npo_core.stages NAME SPEC.json` runs one stage; `--serve` keeps a preloaded parent that forks stages."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        from npo_core.stages.forkserver import serve

        serve()
    elif len(sys.argv) == 3:
        from npo_core.stages.execute import main

        sys.exit(main(sys.argv[1], Path(sys.argv[2])))
    else:
        sys.exit("usage: python -m npo_core.stages NAME SPEC.json")
