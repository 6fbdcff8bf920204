"""The results behind docs/results-published.md: GRPO and NPO on the built-in task, several seeds, all compute counted.

    python -m studies.results early    the early-stage bootstrapping, with its controls
    python -m studies.results auto     plateau breakthrough and AutoNPO with their controls, at an equal total budget
    python -m studies.results early auto --only-report

Every arm follows the same recipes as any run, without Prefect. A killed call goes on where it was.
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from npo_core.config import Plateau, RunConfig, load_config
from npo_core.recipes.local import run_local
from npo_core.reporting.run_data import RunData, load
from npo_core.stages.workspace import Workspace

CONFIG = Path(__file__).parents[1] / "deployments/configs/demo.yaml"
STEPS = 200  # updates of the final branch of the early arms
LONGEST = 320  # GRPO beside them goes on to the total of the longest scout
BUDGET = 400  # updates of everything together in every arm of `auto`


@dataclass(frozen=True)
class Arm:
    """One line of a comparison.

    late     a plateau breakthrough afterwards, with these settings
    on       the arm on a copy of whose finished run it works, as far as the guide
    """

    name: str
    flow: str = ""
    settings: dict = field(default_factory=dict)
    late: dict | None = None
    on: str | None = None

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


AUTO = {"training.steps": BUDGET, "auto.budget_updates": BUDGET}
ARMS = {
    "early": [
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
    ],
    "auto": [
        Arm("GRPO", "grpo", {"training.steps": BUDGET}),
        Arm("NPO early", "early-bootstrap", {"bootstrap.scout_steps": 60, "training.steps": BUDGET - 60}),
        Arm("NPO late", late={"rollback_step": 120, "guide_step": 260}, on="GRPO"),
        Arm("NPO early + late", late={"rollback_step": 100, "guide_step": 220}, on="NPO early"),
        Arm("AutoNPO", "auto-npo", AUTO),
        Arm("AutoNPO, bootstrap", "auto-npo", AUTO | {"auto.bootstrap": "scout"}),
        Arm(
            "late rollback without guide",
            late={"rollback_step": 120, "guide_step": 260, "guided": False, "fresh_randomness": True},
            on="GRPO",
        ),
        Arm("NPO late, Delta 40", late={"rollback_step": 120, "guide_step": 160}, on="GRPO"),
        Arm("NPO late, Delta 200", late={"rollback_step": 120, "guide_step": 320}, on="GRPO"),
    ],
}
SEEDS = {"early": [0, 1, 2, 3, 4], "auto": [2, 3, 4, 5, 6]}  # what was chosen by seeds was chosen on others


def configure(arm: Arm, seed: int) -> RunConfig:
    settings = {"name": f"{arm.slug}-s{seed}", "seed": seed, "problems.held_out": 512, "training.steps": STEPS}
    return load_config(CONFIG, settings | arm.settings)


def run_job(arm: Arm, seed: int, folder: str) -> dict:
    """Run one arm with one seed and return its evaluated points, with everything spent before each."""
    workspace = Workspace(f"{folder}/{arm.slug}-s{seed}")
    if arm.on:
        copy_run(f"{folder}/{slug_of(arm.on)}-s{seed}", workspace)
        if not workspace.timeline.final().name.startswith("late-") or not load(workspace).complete:
            run_local("plateau-breakthrough", workspace.config(), workspace.uri, plateau=breakthrough(arm))
    elif not (workspace.store.exists("config.json") and load(workspace).complete):
        run_local(arm.flow, configure(arm, seed), workspace.uri)
    run = load(workspace)
    return {"arm": arm.name, "seed": seed, "points": points(arm, run), "decisions": run.decisions}


def slug_of(name: str) -> str:
    return next(arm.slug for arms in ARMS.values() for arm in arms if arm.name == name)


def breakthrough(arm: Arm) -> Plateau:
    return Plateau(**{"until": arm.late["guide_step"]} | arm.late)


def copy_run(source: str, target: Workspace) -> None:
    """A copy of a finished run, for a plateau breakthrough to work on."""
    folder = Path(target.uri)
    if not target.store.exists("config.json"):
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part, ignore=shutil.ignore_patterns(".*", "report"))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)


def points(arm: Arm, run: RunData) -> list[dict]:
    """The evaluated points; what the copied run had trained beyond the guide was not needed and is not counted."""
    spent = [
        {"step": p.step, "updates": p.updates_total, "tokens": p.tokens_total, "pass_rate": p.pass_rate}
        for p in run.points
    ]
    if not arm.on:
        return spent
    beyond = [piece.steps.between(arm.late["guide_step"], piece.steps["step"][-1]) for piece in run.abandoned[-1:]]
    rollback = run.rollbacks[-1].after.updates
    for point in spent:
        if point["updates"] >= rollback:
            point["updates"] -= sum(map(len, beyond))
            point["tokens"] -= sum(metrics.tokens for metrics in beyond)
    return spent


def run_all(group: str, folder: Path, seeds: list[int], workers: int) -> list[dict]:
    """Every arm of a group with every seed; arms that work on another's run come after it."""
    from npo_core.process import die_with_parent

    arms, results = ARMS[group], []
    context = multiprocessing.get_context("spawn")
    ends = {"initializer": die_with_parent, "initargs": (os.getpid(),)}
    with ProcessPoolExecutor(workers, mp_context=context, **ends) as pool:
        for wave in ([a for a in arms if not a.on], [a for a in arms if a.on]):
            pending = {pool.submit(run_job, arm, seed, str(folder)): (arm, seed) for seed in seeds for arm in wave}
            for done in as_completed(pending):
                results.append(done.result())
                arm, seed = pending[done]
                last = results[-1]["points"][-1]["pass_rate"]
                print(f"{len(results):3d}/{len(arms) * len(seeds)}  {arm.name}, seed {seed}: {last:.3f}", flush=True)
    return sorted(results, key=lambda r: ([a.name for a in arms].index(r["arm"]), r["seed"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[[], *ARMS], default=list(ARMS))
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("NPO_HOME", ".npo")) / "results")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: those of the documents")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only-report", action="store_true")
    options = parser.parse_args()
    folder = options.folder.absolute()
    for group in options.groups:
        (folder / group).mkdir(parents=True, exist_ok=True)
        data = folder / f"{group}.json"
        if not options.only_report:
            found = run_all(group, folder / group, options.seeds or SEEDS[group], options.workers)
            data.write_text(json.dumps(found, indent=1))
        from studies.results_picture import picture
        from studies.results_report import write

        for report in (write, picture):
            report(group, json.loads(data.read_text()), Path(__file__).parents[1] / "docs")


if __name__ == "__main__":
    main()
