"""Runs the methods of docs/mix.md against GRPO, all cost counted, and writes docs/results.md.

    python -m studies.methods                             # `make study`: every arm and seed on tasks E and B
    python -m studies.methods --arms grpo remind --seeds 1
    python -m studies.methods --tasks S --arms grpo pool-rescue-replay-8    # a pretrained model in FOLDER/model
    python -m studies.methods --only-report               # the page again, from what has run

The protocol is studies/protocol.md. A run leaves its points in one small file, FOLDER/points/TASK-ARM-sSEED.json, and
may lose its workspace then. A killed call goes on where it was. Folders of several machines can be put together, if an
arm's seeds and the baseline's are of one machine: the base model differs in bits between machines.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from npo_core.recipes.local import run_local
from npo_core.reporting.run_data import load
from npo_core.stages.workspace import Workspace
from studies.arms import ARMS, BASELINE, TASKS, configure

DOCS = Path(__file__).parents[1] / "docs"
SEEDS = range(1, 13)


class Point(NamedTuple):
    """An evaluated snapshot, and everything spent until it was there."""

    step: int
    pass_rate: float
    updates: float
    flops: float  # generated + 3 x trained tokens, rows that cannot move the policy left out
    tokens: float  # generated, extra samples among them
    seconds: float = math.nan  # of updates, guidance and probes; not known of runs before 0.3


class Job(NamedTuple):
    """One run of the study."""

    task: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and of its file of points."""
        return f"{self.task}-{self.arm}-s{self.seed}"


def run_job(job: Job, folder: str, keep: bool = True, quick: dict[str, Any] | None = None) -> list[Point]:
    """Run an arm with a seed, or find it done; its evaluated points."""
    file = Path(folder) / "points" / f"{job.name}.json"
    if file.exists():
        return [Point(**point) for point in json.loads(file.read_text())["points"]]
    workspace, config = Workspace(Path(folder) / job.name), configure(*job, Path(folder), quick)
    started = time.monotonic()
    there = workspace.store.exists("config.json")
    done, late = there and load(workspace).complete, ARMS[job.arm].late
    begun = late is not None and there and final_name(workspace).startswith("late-")
    if not (done or begun):
        run_local(config.recipe or BASELINE, config, workspace.uri)
    if late is not None and not (done and begun):
        run_local("plateau-breakthrough", config, workspace.uri, plateau=late)
    run = load(workspace)
    points = [
        Point(p.step, p.pass_rate, p.updates_total, p.flops_total, p.tokens_total, p.seconds_total) for p in run.points
    ]
    record = {
        "points": [point._asdict() for point in points],
        "decisions": [decided(made) for made in run.decisions if made["flow"] == "auto-npo"],
        "seconds": time.monotonic() - started,
    }
    file.parent.mkdir(exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(record))
    part.rename(file)
    if not keep:
        shutil.rmtree(Path(folder) / job.name)
    return points


def decided(made: dict[str, Any]) -> dict[str, Any]:
    """Of AutoNPO's decision: what it saw, what it chose, and what that brought over the abandoned branch."""
    seen = {name: made[name] for name in ("step", "intervene", "delta", "pool_q")}
    return seen | {"brought": (made.get("outcome") or {}).get("difference")}


def final_name(workspace: Workspace) -> str:
    """Of the branch that was opened last; empty before the first."""
    branch = workspace.timeline.final()
    return branch.name if branch else ""


def run_all(jobs: list[Job], folder: Path, workers: int, keep: bool) -> None:
    """Run what has not run, in the order of the jobs, those whose teacher is another run's end last."""
    from npo_core.process import die_with_parent

    folder.mkdir(parents=True, exist_ok=True)
    first = [job for job in jobs if not ARMS[job.arm].after]
    jobs, started, done = [*first, *(job for job in jobs if job not in first)], time.monotonic(), 0
    ends = {"initializer": die_with_parent, "initargs": (os.getpid(),)}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), **ends) as pool:
        for part in (jobs[: len(first)], jobs[len(first) :]):
            pending = {pool.submit(run_job, job, str(folder), keep): job for job in part}
            for finished in as_completed(pending):
                done += 1
                left = (time.monotonic() - started) / done * (len(jobs) - done)
                last = finished.result()[-1].pass_rate
                print(
                    f"{done:3d}/{len(jobs)}  {pending[finished].name}: {last:.3f}  {left / 60:.0f} min left", flush=True
                )


def read_all(folder: Path) -> dict[str, dict[str, dict[int, list[Point]]]]:
    """Task -> arm -> seed -> points, of all finished runs."""
    found: dict[str, dict[str, dict[int, list[Point]]]] = {}
    for task in TASKS:
        for arm in ARMS:
            for file in sorted((folder / "points").glob(f"{task}-{arm}-s*.json")):
                seed = file.stem.removeprefix(f"{task}-{arm}-s")
                points = [Point(**point) for point in json.loads(file.read_text())["points"]]
                found.setdefault(task, {}).setdefault(arm, {})[int(seed)] = points
    return found


def read_decisions(folder: Path) -> dict[str, dict[str, dict[int, list[dict[str, Any]]]]]:
    """Task -> arm -> seed -> what AutoNPO decided, of all finished runs that say so."""
    found: dict[str, dict[str, dict[int, list[dict[str, Any]]]]] = {}
    for task in TASKS:
        for arm in ARMS:
            if ARMS[arm].method.startswith("auto-npo"):
                files = sorted((folder / "points").glob(f"{task}-{arm}-s*.json"))
                said = {int(f.stem.rpartition("-s")[2]): json.loads(f.read_text()).get("decisions") for f in files}
                found.setdefault(task, {})[arm] = {seed: made for seed, made in said.items() if made is not None}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["E", "B"])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("NPO_HOME", ".npo")) / "study")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--drop-runs", action="store_true", help="keep points alone; no arm can learn from a run then")
    parser.add_argument("--no-report", action="store_true", help="run, and write no page")
    parser.add_argument("--only-report", action="store_true")
    options = parser.parse_args()
    folder = options.folder.absolute()
    if options.drop_runs and (learning := [arm for arm in options.arms if ARMS[arm].after]):
        parser.error(f"--drop-runs deletes what {', '.join(learning)} learns from: leave it out, or the arm (--arms)")
    jobs = [Job(task, arm, seed) for task in options.tasks for seed in options.seeds for arm in options.arms]
    if not options.only_report:
        run_all(jobs, folder, options.workers, keep=not options.drop_runs)
    if not options.no_report:
        from studies.methods_page import write

        found = read_all(folder)
        if not any(BASELINE in arms for arms in found.values()):
            parser.error(
                f"--folder {folder} holds no finished run of {BASELINE}, so the page stays as it is: run it first"
            )
        write(found, DOCS, read_decisions(folder))


if __name__ == "__main__":
    main()
