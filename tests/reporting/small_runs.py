"""Small runs written through the real records, without training: numbers that can be added up by hand.

Every update of a policy generates 100 tokens, every guidance cache cost 70. Snapshots every 2 updates.
* The bootstrapped run: scout 0-4, replay 0-4 guided, then 4-8. Plain GRPO: main 0-8.
* Plateau breakthrough on plain GRPO: back from step 6 to step 2, late 2-6 guided, then 6-8.
* AutoNPO: main 0-4, a probe of 30 tokens and no intervention, main 4-8, a probe of 40, back to step 4, replay-1 4-8
  guided, then 8-10, a probe of 50, back to step 6, replay-2 6-10 guided, then 10-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from npo_core.config import Plateau, parse_config
from npo_core.guidance import CacheWriter, Trajectory
from npo_core.recipes.run import Run
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch, Segment
from npo_core.timeline.segments import STEP_SCHEMA, Mark, write_part

CONFIG = {
    "name": "tiny",
    "training": {"steps": 8, "snapshot_every": 2, "prompts_per_step": 4},
    "bootstrap": {"scout_steps": 4},
    "evaluation": {"every": 2, "target": 0.8},
}
VERSIONS = {"python": "3.11", "torch": "2.9"}
BASE = "base"
PROTOCOL = "aa11bb22"
LATE = "late-2-6-0a1b2c"


def snapshot(branch: str, step: int) -> str:
    return f"{branch}{step}" if step else BASE


def add_segment(
    workspace: Workspace, branch: str, t0: int, t1: int, cache: str | None = None, start: str | None = None
) -> Segment:
    """A finished segment, its parts of two updates, and the stage that made it."""
    start = start or snapshot(branch, t0)
    id_ = f"{branch}from{t0}".replace("-", "")
    ends = list(range(t0 + 2, t1 + 1, 2))
    for end in ends:
        rows = [step_row(step, guided=cache is not None) for step in (end - 1, end)]
        write_part(workspace.store, id_, Mark(end, snapshot(branch, end), 0.5), rows, [])
    segment = workspace.timeline.add_segment(
        Segment(
            id=id_,
            branch=branch,
            start=start,
            end=snapshot(branch, t1),
            t0=t0,
            t1=t1,
            snapshots={end: snapshot(branch, end) for end in ends},
            parts=ends,
            cache=cache,
            cost={"tokens_generated": 100.0 * (t1 - t0), "updates": float(t1 - t0), "seconds": 0.5 * len(ends)},
        )
    )
    spec = {"branch": branch, "start": segment.start, "until": t1, "cache": cache}
    result = {
        "segment": id_,
        "end": segment.end,
        "snapshots": {str(k): v for k, v in segment.snapshots.items()},
        "cost": segment.cost,
    }
    add_stage(workspace, "train", id_, spec, result)
    return segment


def step_row(step: int, guided: bool) -> dict:
    row = dict.fromkeys(STEP_SCHEMA.names, 0.0)
    return row | {
        "step": step,
        "tokens_generated": 100.0,
        "pass_rate": step / 10,
        "entropy": 1 / step,
        "entropy_on_policy": None,  # as a run of before 0.3 has it
        "groups_all_wrong": 2.0,
        "groups_injected": 3.0 if guided else 0.0,
        "groups_rescued": 1.0 if guided else 0.0,
        "guide_kl": 0.2 if guided else None,
    }


def add_stage(workspace: Workspace, name: str, fingerprint: str, spec: dict, result: dict | None) -> None:
    fingerprint = fingerprint.replace("-", "")  # a dash ends the name of the stage
    folder, number = f"stages/{name}-{fingerprint}", len(workspace.store.list("stages"))
    workspace.store.write_json(f"{folder}/spec.json", spec)
    if result is not None:
        record = {
            "stage": name,
            "fingerprint": fingerprint,
            "result": result,
            "seconds": 1.0,
            "started": 1000.0 + number,
            "versions": VERSIONS,
        }
        workspace.store.write_json(f"{folder}/result.json", record)


def add_scores(
    workspace: Workspace, branch: str, rates: Sequence[float], protocol: str = PROTOCOL, first: int = 0
) -> None:
    """Scores of every second snapshot of a branch, and the evaluation stage."""
    steps = [first + 2 * i for i in range(len(rates))]
    ids = [snapshot(branch, step) for step in steps]
    for step, id_, rate in zip(steps, ids, rates, strict=True):
        score = {
            "snapshot": id_,
            "step": step,
            "pass_rate": rate,
            "standard_error": 0.03,
            "tokens": 5000,
            "by_difficulty": {"3": rate, "4": rate / 2},
            "pass_at_k": {"1": rate, "4": min(1.0, rate + 0.1)},
        }
        workspace.store.write_json(f"evaluations/{protocol}/{id_}.json", score)
    spec, cost = {"snapshots": ids}, {"tokens_generated": 5000.0 * len(ids)}
    add_stage(workspace, "evaluate", f"e-{branch}", spec, {"cost": cost})


def add_cache(workspace: Workspace, name: str = "cache-1", guide: str = "scout4", step: int = 4) -> str:
    """Two trajectories of three tokens; 70 tokens were generated for them."""
    store = workspace.guidance(name)
    writer = CacheWriter(store)
    tokens = np.array([3, 4, 1], np.int32)
    writer.write(
        Trajectory(
            prompt_id=f"{number:016x}",
            token_ids=tokens,
            logprobs=np.zeros(3, np.float32),
            rewards=np.ones(1, np.float32),
            outcome="correct",
            guide=guide,
            guide_step=step,
            sample=0,
            samples=2,
            seed=7,
        )
        for number in (1, 2)
    )
    writer.finish(
        tokenizer="t",
        model="m",
        problems="p",
        reward_names=["accuracy"],
        eos_token_id=1,
        sampling={},
        guides=[{"id": guide, "step": step}],
        prompts_asked=4,
        prompts_skipped=1,
        tokens_generated=70,
        samples_drawn=20,
        seconds=0.3,
    )
    spec = {"guides": [guide], "rollback": BASE}
    add_stage(workspace, "guide", name, spec, {"cache": name, "cost": {"tokens_generated": 70.0, "seconds": 0.3}})
    return name


def add_decision(workspace: Workspace, number: int, branch: str, step: int, delta: int | None, tokens: float) -> None:
    """A probe of so many tokens, and what was decided from it."""
    at, probe = snapshot(branch, step), f"p{number}"
    add_stage(workspace, "probe", probe, {"snapshot": at, "candidates": []}, {"cost": {"tokens_generated": tokens}})
    chosen = {"delta": delta, "step": 2, "snapshot": "main2", "q": 0.25, "kl": 0.1, "v": 1.105, "s": 0.226}
    decision = {
        "number": number,
        "flow": "auto-npo",
        "thresholds": {},
        "branch": branch,
        "step": step,
        "snapshot": at,
        "intervene": delta is not None,
        "reason": f"Reason {number}.",
        "delta": delta,
        "probe": probe,
        "candidates": [chosen | {"delta": 6, "q": 0.1}, *([chosen] if delta else [])],
    }
    workspace.store.write_json(f"decisions/{number:04d}.json", decision)


def new_workspace(folder: Path, config: dict = CONFIG) -> Workspace:
    workspace, parsed = Workspace(folder), parse_config(config)
    workspace.bind(parsed)
    made = {"snapshot": BASE, "made": True, "bytes": 1}
    add_stage(workspace, "base", Run(parsed, workspace).base().fingerprint, {}, made)
    return workspace


def make_bootstrap(folder: Path) -> Workspace:
    workspace = new_workspace(folder)
    workspace.timeline.add_branch(Branch(name="scout", parent=BASE, parent_step=0, reason="scout"))
    add_segment(workspace, "scout", 0, 4)
    cache = add_cache(workspace)
    workspace.timeline.add_branch(
        Branch(name="replay", parent=BASE, parent_step=0, reason="rollback", guide=["scout4"], cache=cache)
    )
    add_segment(workspace, "replay", 0, 4, cache)
    add_segment(workspace, "replay", 4, 8)
    add_scores(workspace, "replay", [0.2, 0.6, 0.7, 0.85, 0.95])
    return workspace


def make_grpo(folder: Path) -> Workspace:
    workspace = new_workspace(folder)
    workspace.timeline.add_branch(Branch(name="main", parent=BASE, parent_step=0, reason="GRPO"))
    add_segment(workspace, "main", 0, 8)
    add_scores(workspace, "main", [0.2, 0.4, 0.6, 0.75, 0.8])
    return workspace


def roll_back(
    workspace: Workspace, branch: str, at: tuple[str, int], guide: tuple[str, int], cache: str | None
) -> None:
    """A branch that leaves the snapshot of a branch at a step, and its guided segment up to the guide's step."""
    start, guides = snapshot(*at), [snapshot(*guide)] if cache else []
    workspace.timeline.add_branch(
        Branch(name=branch, parent=start, parent_step=at[1], reason="rollback", guide=guides, cache=cache)
    )
    add_segment(workspace, branch, at[1], guide[1], cache, start=start)


def break_through(workspace: Workspace, branch: str, guided: bool = True) -> None:
    """Back from step 6 of a branch to step 2."""
    decision = {
        "number": 1,
        "flow": "plateau-breakthrough",
        "thresholds": Plateau(rollback_step=2, guide_step=6, guided=guided).model_dump(mode="json"),
        "branch": branch,
        "step": 6,
        "intervene": True,
        "reason": "The rollback to step 2 was given.",
        "delta": 4,
        "probe": None,
        "candidates": [],
    }
    workspace.store.write_json("decisions/0001.json", decision)
    cache = add_cache(workspace, "cache-late", guide=snapshot(branch, 6), step=6) if guided else None
    roll_back(workspace, LATE, (branch, 2), (branch, 6), cache)


def make_plateau(folder: Path, guided: bool = True) -> Workspace:
    workspace = make_grpo(folder)
    break_through(workspace, "main", guided)
    add_segment(workspace, LATE, 6, 8)
    add_scores(workspace, LATE, [0.7, 0.85, 0.9], first=4)
    return workspace


def make_auto(folder: Path) -> Workspace:
    workspace = new_workspace(folder, CONFIG | {"training": CONFIG["training"] | {"steps": 12}})
    workspace.timeline.add_branch(Branch(name="main", parent=BASE, parent_step=0, reason="GRPO"))
    add_segment(workspace, "main", 0, 4)
    add_decision(workspace, 1, "main", 4, None, 30.0)
    add_segment(workspace, "main", 4, 8)
    add_decision(workspace, 2, "main", 8, 4, 40.0)
    roll_back(workspace, "replay-1", ("main", 4), ("main", 8), add_cache(workspace, guide="main8", step=8))
    windows = {"replay": ("replay-1", 0.7, 0.2), "abandoned": ("main", 0.65, 0.1)}
    result = {kind: {"branch": b, "pass_rate": p, "entropy": e} for kind, (b, p, e) in windows.items()}
    workspace.store.write_json("decisions/0002-outcome.json", {"number": 2, "difference": 0.05, **result})
    add_segment(workspace, "replay-1", 8, 10)
    add_decision(workspace, 3, "replay-1", 10, 4, 50.0)
    second = add_cache(workspace, "cache-2", guide="replay-110", step=10)
    roll_back(workspace, "replay-2", ("replay-1", 6), ("replay-1", 10), second)
    add_segment(workspace, "replay-2", 10, 12)
    add_scores(workspace, "main", [0.2, 0.3, 0.4, 0.45, 0.5])
    add_scores(workspace, "replay-1", [0.5, 0.55, 0.6], first=6)
    add_scores(workspace, "replay-2", [0.7, 0.85, 0.9], first=8)
    return workspace
