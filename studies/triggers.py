"""How good AutoNPO's warning is: false warnings and missed plateaus, and the thresholds chosen by that.

    python -m studies.triggers [--runs .npo/results/early] [--write-docs]

Thresholds are chosen on one half (made curves of odd seeds, real runs of seeds 0 and 1) and reported on the other.
The real runs are those of `python -m studies.results`. `--write-docs` puts tables and picture into docs/triggers.md.
Takes seconds: nothing is trained. The exit code is 1 where the defaults are not what the measurement chooses.
"""

import argparse
import os
import sys
from pathlib import Path

from studies.triggers_curves import Curves, made, real
from studies.triggers_measure import SCHEMES, Setting, default, measure
from studies.triggers_report import page, write


def choose(made_curves: Curves, real_curves: Curves) -> dict[str, Setting]:
    """The setting of least loss of each scheme, on the half to choose on."""
    halves = made_curves[made_curves.choosing], real_curves[real_curves.choosing]
    return {name: min(measure(tried, *halves), key=lambda row: row.loss).setting for name, tried in SCHEMES.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path(os.environ.get("NPO_HOME", ".npo")) / "results/early")
    parser.add_argument("--write-docs", action="store_true", help="put tables and picture into docs/triggers.md")
    options = parser.parse_args()
    if not any(options.runs.glob("*/config.json")):
        sys.exit(
            f"--runs {options.runs} holds no run: make them with `make results`, or name the folder that has them."
        )
    made_curves, real_curves = made(), real(options.runs.absolute())
    chosen = choose(made_curves, real_curves)
    print(page(made_curves, real_curves, chosen))
    if options.write_docs:
        write(made_curves, real_curves, chosen, Path(__file__).parents[1] / "docs")
    best = chosen["averages, both conditions"]
    if best != default():
        print(f"\nThe defaults are {default()}, the measurement chooses {best}: change class Trigger, or say why not.")
    return int(best != default())


if __name__ == "__main__":
    sys.exit(main())
