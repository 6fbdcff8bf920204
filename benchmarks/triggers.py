"""How good AutoNPO's warning is: false warnings and missed plateaus, and the thresholds chosen by that.

    python -m benchmarks.triggers [--runs .npo/results/early] [--write-docs]

Thresholds are chosen on one half (made curves of odd seeds, real runs of seeds 0 and 1) and reported on the other.
The real runs are those of `python -m benchmarks.results`. `--write-docs` puts tables and picture into docs/triggers.md.
Takes seconds: nothing is trained. The exit code is 1 where the defaults are not what the measurement chooses.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.triggers_curves import Curves, made, real
from benchmarks.triggers_measure import (
    ALWAYS_FALLS,
    ALWAYS_STAGNATES,
    Changes,
    Score,
    Setting,
    changes,
    default,
    score,
    settings,
)

SCHEMES = {
    "averages, both conditions": list(settings()),
    "averages, pass rate alone": list(settings(drops=(ALWAYS_FALLS,))),
    "averages, entropy alone": list(settings(gains=(ALWAYS_STAGNATES,))),
    "straight lines, both conditions": list(settings(slope=True)),
    "straight lines, pass rate alone": list(settings(slope=True, drops=(ALWAYS_FALLS,))),
}


@dataclass(frozen=True)
class Row:
    """A setting and what came of it on the made and on the real curves of one half."""

    setting: Setting
    made: Score
    real: Score

    @property
    def loss(self) -> float:
        """A missed plateau weighs as much as a look on an improving stretch that warns; made as much as real curves."""
        return sum(half.missed + half.false_looks for half in (self.made, self.real)) / 2


def measure(tried: Iterable[Setting], made_curves: Curves, real_curves: Curves) -> list[Row]:
    """All settings on the same curves; what does not depend on the thresholds is computed once."""
    seen: dict[tuple, tuple[Changes, Changes]] = {}
    rows = []
    for setting in tried:
        key = setting.ema, setting.window
        if key not in seen:
            seen[key] = changes(made_curves, setting), changes(real_curves, setting)
        rows.append(Row(setting, score(made_curves, setting, seen[key][0]), score(real_curves, setting, seen[key][1])))
    return rows


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
    from benchmarks.triggers_report import page, write

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
