"""What the measurements share: the demo's configuration, stages run in this process, statistics, verdicts."""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from npo_core.config import RunConfig, Training, load_config
from npo_core.problems import ProblemSet
from npo_core.recipes.run import Run
from npo_core.stages.execute import execute
from npo_core.stages.forked import environment
from npo_core.stages.launch import prepare, read_result
from npo_core.stages.results import GuideResult, TrainResult
from npo_core.stages.specs import Spec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "deployments/configs/demo.yaml"
ARENAS = "MALLOC_ARENA_MAX"
# A model and a task that are made and trained within seconds: they show that a measurement works, and measure nothing.
QUICK = {
    "problems.train": 256, "problems.held_out": 16, "problems.operands": 3, "problems.difficulties": [0, 1, 2],
    "model.layers": 1, "model.width": 32, "model.heads": 2, "model.steps": 150, "model.batch": 32,
    "model.learning_rate": 1e-2,
    "training.steps": 8, "training.prompts_per_step": 4, "training.group_size": 4, "training.micro_batch": 16,
    "training.max_completion_tokens": 3, "training.snapshot_every": 2,
    "bootstrap.scout_steps": 6, "evaluation.every": 4, "evaluation.samples": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """A measured number and, where there is one, the most it may be."""

    name: str
    measured: float
    target: float | None = None
    unit: str = ""

    @property
    def passed(self) -> bool:
        return self.target is None or self.measured <= self.target

    @property
    def verdict(self) -> str:
        return "-" if self.target is None else "PASS" if self.passed else "FAIL"

    def as_dict(self) -> dict:
        return asdict(self) | {"passed": self.passed, "verdict": self.verdict}


def demo_config(quick: bool, **changes: object) -> RunConfig:
    """The demo's configuration on the CPU; `changes` are dotted fields with `__` for the dot."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(DEMO, {"execution.device": "cpu", **(QUICK if quick else {}), **changes})


def settle(config: RunConfig) -> None:
    """Give this process the environment of a stage, from its start; call it before torch is imported."""
    wanted = environment(config.execution) | {"HF_HUB_OFFLINE": "1"}
    if os.environ.get(ARENAS) != wanted[ARENAS]:  # the C library has read it by now
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
    os.environ.update(wanted)


def say(text: str) -> None:
    """A progress line, apart from the results on standard output."""
    print(text, file=sys.stderr, flush=True)


def run_here(spec: Spec) -> Any:
    """Run a stage's function in this process, as its own process would, and return its result."""
    workspace = Workspace(spec.workspace)
    if (done := read_result(workspace, spec)) is None:
        execute(spec, workspace, prepare(workspace, spec))
        done = read_result(workspace, spec)
    return done.result


class BenchRun:
    """A workspace whose stages run through `stage` (in this process by default), with its base model made."""

    def __init__(self, config: RunConfig, folder: Path, stage: Callable[[Spec], Any] = run_here):
        self.run, self.stage = Run(config, Workspace(folder)), stage
        self.config, self.workspace = config, self.run.workspace
        self.workspace.bind(config)
        self.base = stage(self.run.base()).snapshot

    def train(self, branch: str, until: int, cache: str | None = None) -> TrainResult:
        """Train a new branch from the base."""
        timeline = self.workspace.timeline
        timeline.add_branch(Branch(name=branch, parent=self.base, parent_step=0, reason=branch, cache=cache))
        return self.stage(self.run.train(branch=branch, start=self.base, until=until, cache=cache))

    def guide(self, scout: TrainResult, steps: Sequence[int], **changes: object) -> GuideResult:
        """Guidance for a scout segment from its snapshots at `steps`; `changes` replace fields of the specification."""
        guides = [scout.snapshots[step] for step in steps]
        spec = self.run.guide(guides=guides, rollback=self.base, segments=[scout.segment])
        return self.stage(type(spec).model_validate({**spec.model_dump(), **changes}))

    def folder(self, snapshot: str) -> Path:
        return self.workspace.snapshot_folder(snapshot)


def base_folder(config: RunConfig) -> Path:
    """The demo's base model, made if it is not there, so that no measurement pays for it."""
    from npo_core.stages.base import built_in
    from npo_core.stages.context import StageContext

    with tempfile.TemporaryDirectory(prefix="npo-base-") as scratch:
        workspace = Workspace(scratch)
        folder, made = built_in(Run(config, workspace).base(), StageContext(workspace, Path(scratch), "cpu"))
    return folder


def trainer_parts(
    model: Path, training: Training, problems: ProblemSet, *, seed: int, output: Path, device: str
) -> dict[str, Any]:
    """What TRL's trainer and NPOTrainer take alike, as the training stage makes it, with checkpoints off."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_utils import SaveStrategy

    from npo_core.models.identity import eos_token_ids
    from npo_core.training.build import Rewards, grpo_config, training_data

    args = grpo_config(training, seed=seed, output=output, device=device)
    args.save_strategy = SaveStrategy.NO
    return {
        "model": AutoModelForCausalLM.from_pretrained(model),
        "reward_funcs": Rewards(problems, eos_token_ids(model)).functions,
        "args": args,
        "train_dataset": training_data(problems),
        "processing_class": AutoTokenizer.from_pretrained(model, padding_side="left"),
    }


def timed(call: Callable[[], object]) -> tuple[float, object]:
    """Wall seconds of a call, and what it returned."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def in_words(values: dict[str, float], unit: str = "", digits: int = 3) -> str:
    """`1.012 (0.998 to 1.030)`"""
    low, middle, high = (f"{values[key]:.{digits}f}" for key in ("min", "median", "max"))
    return f"{middle}{unit} ({low} to {high})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table that reads well as text and renders as markdown."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    lines = ["| " + " | ".join(row) + " |" for row in padded]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def verdicts(checks: Sequence[Check]) -> str:
    """One line a check that has a target."""
    return "\n".join(
        f"{c.verdict}: {c.name} {c.measured:.3f}{c.unit}, target at most {c.target:g}{c.unit}"
        for c in checks
        if c.target is not None
    )


def parser(doc: str) -> argparse.ArgumentParser:
    parsed = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsed.add_argument("--quick", action="store_true", help="sizes that only show that the measurement works")
    parsed.add_argument("--json", action="store_true", help="one line of JSON instead of text")
    return parsed


def finish(result: dict, checks: Sequence[Check], text: str, options: argparse.Namespace) -> int:
    """Print a measurement and return the exit code: 1 where a target was missed in a full run."""
    passed = all(check.passed for check in checks)
    if options.json:
        print(json.dumps(result | {"checks": [check.as_dict() for check in checks], "passed": passed, "text": text}))
    else:
        print("\n\n".join(part for part in (text, verdicts(checks)) if part))
    return 0 if passed or options.quick else 1
