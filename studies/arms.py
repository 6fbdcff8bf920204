"""What `studies.methods` compares: tasks, arms and their lengths; studies/protocol.md says why."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.number_problems import write_problems
from npo_core.config import Plateau, RunConfig, load_config
from npo_core.shipped import shipped
from npo_core.stages.workspace import Workspace

TASKS = {"E": "rare-facts.yaml", "B": "milder-facts.yaml", "G": "gap.yaml", "S": "numbers-smollm2.yaml"}
REAL, REAL_STEPS = (
    "S",
    120,
)  # the pretrained model, whose updates are dear: those of an arm; baselines have twice as many
STEPS = 300  # optimizer updates of an arm
# What a method leaves to its task; signals of a task that is learned in 300 updates.
SIGNALS = {"auto.control.trigger.window": 30, "auto.control.trigger.warm_up": 30, "training.snapshot_every": 20}


@dataclass(frozen=True)
class Arm:
    """A method with its settings. `updates`: how long it trains; `after`: an arm whose end is its teacher.

    `late`: a plateau breakthrough behind it.
    """

    method: str
    fields: dict[str, Any] = field(default_factory=dict)
    updates: int = STEPS
    after: str = ""
    late: Plateau | None = None


BASELINE = "grpo"
# Baselines run long enough to be read at the cost of every other arm; groups of 4 are the fair baseline by tokens.
FOURS = {"training.group_size": 4, "training.micro_batch": 64}
BASELINES = {
    BASELINE: Arm("grpo", updates=540),
    "grpo-4": Arm("grpo", FOURS, updates=1080),
    "grpo-16": Arm("grpo", {"training.group_size": 16, "training.micro_batch": 256}, updates=300),
}
HEADLINE = {name: Arm(name) for name in ("rare-success-replay", "pool-rescue-replay-8")}
SMALL = {f"{name}-of-4": Arm(name, FOURS, updates=600) for name in HEADLINE}  # the same with groups of 4
LATE = {"guide_step": 180, "rollback_step": 120, "until": STEPS}
OTHERS = {
    "pool-rescue-replay-32": Arm("pool-rescue-replay-32"),
    "pool-rescue": Arm("pool-rescue"),
    "pool-rescue-from-120": Arm(
        "pool-rescue",
        {
            "mix.sources": [{"kind": "extra-samples", "chunks": 4, "from_step": 120}],
            "mix.prompts": [{"kind": "mistake-pool", "share": 0.5, "from_step": 120}],
        },
    ),
    "extra-samples": Arm("extra-samples"),
    "auto-npo-prices": Arm("auto-npo-prices", SIGNALS),
    "auto-npo": Arm("auto-npo", SIGNALS),
    "npo-early": Arm("npo-early"),
    "npo-early-ladder": Arm("npo-early", {"training.snapshot_every": 20, "bootstrap.ladder": [20, 40, 60]}),
    "npo-late": Arm("grpo", updates=180, late=Plateau(**LATE)),
    "npo-early-late": Arm("npo-early", updates=180, late=Plateau(**LATE)),
    "rollback-without-guide": Arm("npo-early", {"bootstrap.guided": False, "bootstrap.fresh_randomness": True}),
    "late-rollback-without-guide": Arm("grpo", updates=180, late=Plateau(**LATE, guided=False, fresh_randomness=True)),
    "far-future": Arm("far-future"),
    "rlep": Arm("rlep"),
    "dapo-dynamic-sampling": Arm("dapo-dynamic-sampling"),
    "luffy": Arm("luffy", after=BASELINE),
    "exgrpo": Arm("exgrpo"),
    "remind": Arm("remind"),
    "past-replay": Arm("past-replay"),
    "past-self": Arm("past-self", {"mix.guide.from_step": 60}),
    "rlsd": Arm("rlsd"),
}
ARMS = BASELINES | HEADLINE | SMALL | OTHERS


def configure(task: str, name: str, seed: int, folder: Path, quick: dict[str, Any] | None = None) -> RunConfig:
    """The configuration of an arm's run. Its teacher, if it has one, is the end of a finished run in the folder.

    Args:
        quick: fields that make a run short, for a test.
    """
    arm = ARMS[name]
    fields = {"name": f"{name}-s{seed}", "seed": seed, "method": arm.method}
    fields |= {"training.steps": arm.updates, "execution.device": "cpu"}
    if task == REAL:
        fields |= {"training.steps": REAL_STEPS * (2 if name in BASELINES else 1), **real_fields(folder)}
    fields |= arm.fields
    if arm.after:
        teacher = Workspace(folder / f"{task}-{arm.after}-s{seed}")
        states = teacher.timeline.states("main")
        fields["mix.guide.path"] = str(teacher.snapshot_folder(states[max(states)]))
    return load_config(shipped() / "deployments/configs/tasks" / TASKS[task], fields | (quick or {}))


def real_fields(folder: Path) -> dict[str, Any]:
    """Of the real model's runs: the model is the folder `model` beside them, the questions are written there."""
    rows = folder / "numbers.jsonl"
    if not rows.exists():
        write_problems(part := folder / f"numbers.{os.getpid()}.part")
        part.rename(rows)
    return {"problems.train.path": str(rows), "model.path": str(folder / "model")}
