"""The results behind docs/results.md: GRPO against NPO on the built-in task, several seeds, all compute counted.

    python -m benchmarks.results --folder .npo/results            run what is missing, then write tables and pictures
    python -m benchmarks.results --folder .npo/results --only-report

Every arm goes through the same flows as any run. A killed call goes on where it was.
"""

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from npo_core.config import RunConfig, load_config

CONFIG = Path(__file__).parents[1] / "deployments/configs/demo.yaml"
STEPS = 200  # updates of every arm's final branch; GRPO goes on to the total of the longest scout
LONGEST = 320


@dataclass(frozen=True)
class Arm:
    """One line of the comparison."""

    name: str
    flow: str
    settings: dict


ARMS = [
    Arm("GRPO", "grpo", {"training.steps": LONGEST}),
    Arm("NPO, scout 20", "early-bootstrap", {"bootstrap.scout_steps": 20}),
    Arm("NPO, scout 60", "early-bootstrap", {"bootstrap.scout_steps": 60}),
    Arm("NPO, scout 120", "early-bootstrap", {"bootstrap.scout_steps": 120}),
    Arm("NPO, ladder 20-60", "early-bootstrap", {"bootstrap.scout_steps": 60, "bootstrap.ladder": [20, 40, 60]}),
    Arm(
        "NPO, ladder 20-120",
        "early-bootstrap",
        {"bootstrap.scout_steps": 120, "bootstrap.ladder": [20, 40, 60, 80, 100, 120]},
    ),
    Arm(
        "rollback without guide, scout 60",
        "early-bootstrap",
        {"bootstrap.scout_steps": 60, "bootstrap.guided": False, "bootstrap.fresh_randomness": True},
    ),
]


def slug(arm: Arm) -> str:
    return "".join(c if c.isalnum() else "-" for c in arm.name.lower()).replace("--", "-").strip("-")


def configure(arm: Arm, seed: int) -> RunConfig:
    settings = {"name": f"{slug(arm)}-s{seed}", "seed": seed, "problems.held_out": 512, "training.steps": STEPS}
    return load_config(CONFIG, settings | arm.settings)


def run_job(arm: Arm, seed: int, folder: str) -> dict:
    """Run one arm with one seed and return its evaluated points, with everything spent before each."""
    from flows.run import run_flow
    from npo_core.reporting.run_data import load
    from npo_core.stages.workspace import Workspace

    workspace = Workspace(f"{folder}/{slug(arm)}-s{seed}")
    if not (workspace.store.exists("config.json") and load(workspace).complete):
        run_flow(arm.flow, configure(arm, seed), workspace.uri)
    points = [
        {"step": p.step, "updates": p.updates_total, "tokens": p.tokens_total, "pass_rate": p.pass_rate}
        for p in load(workspace).points
    ]
    return {"arm": arm.name, "seed": seed, "points": points}


def run_all(folder: Path, seeds: list[int], workers: int) -> list[dict]:
    from flows.server import local_server
    from npo_core.stages.execute import die_with_parent

    jobs = [(arm, seed) for seed in seeds for arm in ARMS]
    results = []
    context = multiprocessing.get_context("spawn")
    with local_server(), ProcessPoolExecutor(workers, mp_context=context, initializer=die_with_parent) as pool:
        pending = {pool.submit(run_job, arm, seed, str(folder)): (arm.name, seed) for arm, seed in jobs}
        for done in as_completed(pending):
            results.append(done.result())
            name, seed = pending[done]
            print(
                f"{len(results):3d}/{len(jobs)}  {name}, seed {seed}: {results[-1]['points'][-1]['pass_rate']:.3f}",
                flush=True,
            )
    return sorted(results, key=lambda r: ([a.name for a in ARMS].index(r["arm"]), r["seed"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("NPO_HOME", ".npo")) / "results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only-report", action="store_true")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "results.json"
    if not options.only_report:
        data.write_text(json.dumps(run_all(folder, options.seeds, options.workers), indent=1))
    from benchmarks.results_report import write

    write(json.loads(data.read_text()), Path(__file__).parents[1] / "docs")


if __name__ == "__main__":
    main()
