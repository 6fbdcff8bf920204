"""Small runs written through the real records, without training: numbers that can be added up by hand.

Every update of a policy generates 100 tokens. The bootstrapped run: scout 0-4, guidance of 70 tokens, replay 0-4
guided, then 4-8. Plain GRPO: main 0-8. Snapshots every 2 updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from npo_core.config import parse_config
from npo_core.guidance import CacheWriter, Trajectory
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


def snapshot(branch: str, step: int) -> str:
    return f"{branch}{step}" if step else BASE


def add_segment(workspace: Workspace, branch: str, t0: int, t1: int, cache: str | None = None) -> Segment:
    """A finished segment, its parts of two updates, and the stage that made it."""
    id_ = f"{branch}from{t0}"
    ends = list(range(t0 + 2, t1 + 1, 2))
    for end in ends:
        rows = [step_row(step, guided=cache is not None) for step in (end - 1, end)]
        write_part(workspace.store, id_, Mark(end, snapshot(branch, end), 0.5), rows, [])
    segment = workspace.timeline.add_segment(
        Segment(
            id=id_,
            branch=branch,
            start=snapshot(branch, t0),
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
        "groups_all_wrong": 2.0,
        "groups_injected": 3.0 if guided else 0.0,
        "groups_rescued": 1.0 if guided else 0.0,
        "guide_kl": 0.2 if guided else None,
    }


def add_stage(workspace: Workspace, name: str, fingerprint: str, spec: dict, result: dict | None) -> None:
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


def add_scores(workspace: Workspace, branch: str, rates: Sequence[float], protocol: str = PROTOCOL) -> None:
    """Scores of the snapshots 0, 2, 4, ... of a branch, and the evaluation stage."""
    ids = [snapshot(branch, 2 * i) for i in range(len(rates))]
    for i, (id_, rate) in enumerate(zip(ids, rates, strict=True)):
        score = {
            "snapshot": id_,
            "step": 2 * i,
            "pass_rate": rate,
            "standard_error": 0.03,
            "tokens": 5000,
            "by_difficulty": {"3": rate, "4": rate / 2},
            "pass_at_k": {"1": rate, "4": min(1.0, rate + 0.1)},
        }
        workspace.store.write_json(f"evaluations/{protocol}/{id_}.json", score)
    add_stage(workspace, "evaluate", "e0", {"snapshots": ids}, {"cost": {"tokens_generated": 5000.0 * len(ids)}})


def add_cache(workspace: Workspace) -> str:
    """Two trajectories of three tokens; 70 tokens were generated for them."""
    store = workspace.guidance("cache-1")
    writer = CacheWriter(store)
    tokens = np.array([3, 4, 1], np.int32)
    writer.write(
        Trajectory(
            prompt_id=f"{number:016x}",
            token_ids=tokens,
            logprobs=np.zeros(3, np.float32),
            rewards=np.ones(1, np.float32),
            outcome="correct",
            guide="scout4",
            guide_step=4,
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
        guides=[{"id": "scout4", "step": 4}],
        prompts_asked=4,
        prompts_skipped=1,
        tokens_generated=70,
        samples_drawn=20,
        seconds=0.3,
    )
    spec = {"guides": ["scout4"], "rollback": BASE}
    add_stage(workspace, "guide", "g0", spec, {"cache": "cache-1", "cost": {"tokens_generated": 70.0, "seconds": 0.3}})
    return "cache-1"


def new_workspace(folder: Path, config: dict = CONFIG) -> Workspace:
    workspace = Workspace(folder)
    workspace.bind(parse_config(config))
    add_stage(workspace, "base", "b0", {}, {"snapshot": BASE, "made": True})
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
