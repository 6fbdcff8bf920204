"""Methods of docs/mix.md against GRPO on the task with rare facts, all cost counted: the table of its first numbers.

    python -m studies.methods                                  # the documents' methods and seeds: hours on two cores
    python -m studies.methods remind --seeds 1 --steps 120     # one method more, of any recipe
    python -m studies.methods --only-report --at 120           # the table again, from what has run

GRPO runs long enough to be read at the cost of each method. A killed call goes on where it was.
"""

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from npo_core.config import RunConfig, load_config
from npo_core.recipes.local import run_local
from npo_core.reporting.run_data import load
from npo_core.shipped import shipped
from npo_core.stages.workspace import Workspace

TASK = "deployments/configs/tasks/rare-facts.yaml"
BASELINE = "grpo"
METHODS = ["rare-success-replay", "pool-rescue-replay-8", "pool-rescue", "extra-samples"]
STEPS, LONGEST = 300, 540  # optimizer updates of a method, and of GRPO
COSTS = ("updates", "flops", "tokens")
# What a method leaves to its task; signals of a task that is learned in 300 updates.
SIGNALS = {"auto.control.trigger.window": 30, "auto.control.trigger.warm_up": 30, "training.snapshot_every": 20}
OF_TASK = {"auto-npo": SIGNALS, "auto-npo-prices": SIGNALS, "past-self": {"mix.guide.from_step": 60}}


class Point(NamedTuple):
    """An evaluated snapshot, and everything spent until it was there."""

    step: int
    pass_rate: float
    updates: float
    flops: float  # generated + 3 x trained tokens, rows that cannot move the policy left out
    tokens: float  # generated, extra samples among them


def configure(method: str, seed: int, steps: int, folder: str) -> RunConfig:
    """The task with a method; the teacher of LUFFY is the end of the baseline of the same seed."""
    fields = {"name": f"{method}-s{seed}", "seed": seed, "method": method, "training.steps": steps}
    if method == "luffy":
        teacher = Workspace(f"{folder}/{BASELINE}-s{seed}")
        fields["mix.guide.path"] = str(teacher.snapshot_folder(teacher.timeline.states("main")[LONGEST]))
    return load_config(shipped() / TASK, fields | OF_TASK.get(method, {}))


def run_job(method: str, seed: int, steps: int, folder: str) -> list[Point]:
    """Run a method with a seed, or find it done; its evaluated points."""
    workspace, config = Workspace(f"{folder}/{method}-s{seed}"), configure(method, seed, steps, folder)
    if not (workspace.store.exists("config.json") and load(workspace).complete):
        run_local(config.recipe or BASELINE, config, workspace.uri)
    return points(workspace)


def points(workspace: Workspace) -> list[Point]:
    """The evaluated snapshots on the way to a run's end, with all that was spent by then, on other branches too."""
    return [Point(p.step, p.pass_rate, p.updates_total, p.flops_total, p.tokens_total) for p in load(workspace).points]


def at_cost(baseline: list[Point], cost: str, spent: float) -> float | None:
    """The baseline's pass rate where it has spent as much, read between its evaluations; None beyond its end."""
    for before, after in pairwise(baseline):
        low, high = getattr(before, cost), getattr(after, cost)
        if low <= spent <= high:
            return before.pass_rate + (after.pass_rate - before.pass_rate) * (spent - low) / (high - low)
    return None


def difference(found: dict[int, list[Point]], baseline: dict[int, list[Point]], cost: str, step: int) -> str:
    """Mean over seeds of pass rate minus the baseline's at equal cost, with the lowest and the highest seed."""
    each = []
    for seed, of_seed in found.items():
        point = next(p for p in of_seed if p.step == step)
        theirs = at_cost(baseline[seed], cost, getattr(point, cost))
        if theirs is None:
            return "beyond the run"
        each.append(point.pass_rate - theirs)
    return f"{fmean(each):+.3f} ({min(each):+.3f} to {max(each):+.3f})"


def table(results: dict[str, dict[int, list[Point]]], step: int) -> str:
    """The table in Markdown: a line a method, of the seeds that the baseline has as well."""
    baseline = results[BASELINE]
    lines = ["| method | seeds | pass rate | equal updates | equal FLOPs | equal tokens |", "|---|---|---|---|---|---|"]
    for method, of_method in results.items():
        found = {seed: of for seed, of in of_method.items() if seed in baseline and any(p.step == step for p in of)}
        if found:
            mean = fmean(next(p.pass_rate for p in of if p.step == step) for of in found.values())
            cells = [""] * 3 if method == BASELINE else [difference(found, baseline, cost, step) for cost in COSTS]
            lines.append(f"| `{method}` | {len(found)} | {mean:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run_all(methods: list[str], seeds: list[int], steps: int, folder: Path, workers: int) -> None:
    """Run what has not run, seed by seed."""
    from npo_core.process import die_with_parent

    first = [(BASELINE, seed, LONGEST) for seed in seeds]  # whose ends may be teachers
    jobs = [(method, seed, steps) for seed in seeds for method in methods]
    ends = {"initializer": die_with_parent, "initargs": (os.getpid(),)}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), **ends) as pool:
        for part in (first, jobs):
            pending = {pool.submit(run_job, *job, str(folder)): job for job in part}
            for number, done in enumerate(as_completed(pending), 1):
                method, seed, _ = pending[done]
                print(f"{number:3d}/{len(part)}  {method}, seed {seed}: {done.result()[-1].pass_rate:.3f}", flush=True)


def read_all(methods: list[str], folder: Path) -> dict[str, dict[int, list[Point]]]:
    """Method -> seed -> points, of all finished runs in a folder."""
    found: dict[str, dict[int, list[Point]]] = {}
    for method in [BASELINE, *methods]:
        for place in sorted(folder.glob(f"{method}-s*")):
            workspace = Workspace(place)
            if workspace.store.exists("config.json") and load(workspace).complete:
                found.setdefault(method, {})[workspace.config().seed] = points(workspace)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("NPO_HOME", ".npo")) / "methods")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--at", type=int, default=180, help="evaluated update at which they are compared")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only-report", action="store_true")
    options = parser.parse_args()
    folder = options.folder.absolute()
    if not options.only_report:
        run_all(options.methods, options.seeds, options.steps, folder, options.workers)
    print(table(read_all(options.methods, folder), options.at))


if __name__ == "__main__":
    main()
