"""Measures a replay step with injection against a step of TRL's own trainer.

    python -m benchmarks.steps [--rounds 6] [--steps 25] [--warm-up 5] [--quick] [--json]

One process, blocks in turn, the order reversed every round: TRL's GRPOTrainer; NPOTrainer with guidance and the
recorder of a training stage, as in a replay; NPOTrainer without guidance, as plain GRPO. Every block builds its trainer
anew from the same base folder with the same arguments and seed; no block saves, all log every step. A step lasts from
one `on_step_begin` to the next, so that logging counts. A round's ratio is one of block medians.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import (
    BenchRun,
    Check,
    demo_config,
    finish,
    in_words,
    markdown,
    parser,
    say,
    settle,
    spread,
    trainer_parts,
)
from npo_core.config import Training

TARGET = 1.03
TRL, NPO, PLAIN = "TRL", "NPO, guided", "NPO without guidance"
KINDS = (TRL, NPO, PLAIN)


@dataclass(frozen=True)
class Block:
    """Steps of one trainer. `wall` and `cpu`: seconds of each step after the warm-up."""

    wall: list[float]
    cpu: list[float]
    injected: float  # share of groups over all steps

    @property
    def median(self) -> float:
        return statistics.median(self.wall)


@dataclass(frozen=True)
class Setting:
    """What all blocks share."""

    model: Path
    training: Training
    problems: Any  # ProblemSet
    guidance: Any  # what NPOTrainer takes
    scratch: Path
    device: str
    seed: int  # the scout's, so that its prompts come in its order
    steps: int
    warm_up: int


def make_trainer(kind: str, setting: Setting) -> Any:
    """A trainer of the kind, built as the training stage does, without and with what NPO adds."""
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    from npo_core.training.trainer import NPOTrainer

    training = setting.training.model_copy(update={"steps": setting.steps})
    parts = trainer_parts(
        setting.model,
        training,
        setting.problems,
        seed=setting.seed,
        output=setting.scratch / "trainer",
        device=setting.device,
    )
    if kind == TRL:
        trainer = GRPOTrainer(**parts)
    else:
        trainer = NPOTrainer(**parts, guidance=setting.guidance if kind == NPO else None)
        trainer.add_callback(recorder(setting, trainer))
    trainer.remove_callback(PrinterCallback)
    return trainer


def recorder(setting: Setting, trainer: Any) -> Any:
    """The callback of a training stage, with its progress events."""
    from npo_core.stages.context import StageContext
    from npo_core.stages.workspace import Workspace
    from npo_core.training.recorder import SegmentRecorder

    workspace = Workspace(setting.scratch)
    context = StageContext(workspace, setting.scratch, setting.device)
    keeper = SegmentRecorder(
        workspace.store,
        "benchmark",
        setting.steps + 1,
        {},
        lambda row: context.progress(row["step"], setting.steps, reward=row["reward"]),
    )
    keeper.trainer = trainer
    return keeper


def run_block(kind: str, setting: Setting) -> Block:
    """Train a block and time its steps."""
    from transformers import TrainerCallback

    begun, logged = [], []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            synchronize(setting.device)
            begun.append((time.perf_counter(), time.process_time()))

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
            logged.append(logs.get("groups/injected", 0.0))

    trainer = make_trainer(kind, setting)
    trainer.add_callback(Clock)
    trainer.train()
    if len(begun) != setting.steps:
        raise RuntimeError(f"{kind} made {len(begun)} steps, {setting.steps} were asked")
    pairs = list(zip(begun, begun[1:], strict=False))[setting.warm_up :]
    wall, cpu = ([after[i] - before[i] for before, after in pairs] for i in (0, 1))
    block = Block(wall, cpu, sum(logged) / (setting.steps * setting.training.prompts_per_step))
    if kind == NPO and not block.injected > 0:
        raise RuntimeError("a guided block injected nothing, so it does not measure injection")
    return block


def synchronize(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def compare(setting: Setting, rounds: int) -> dict[str, list[Block]]:
    """Blocks of every kind, in turn, the order reversed every round."""
    blocks: dict[str, list[Block]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in KINDS if number % 2 == 0 else reversed(KINDS):
            block = run_block(kind, setting)
            blocks[kind].append(block)
            say(
                f"steps: round {number + 1}/{rounds}  {kind:22} {1000 * block.median:7.1f} ms a step"
                + (f", {block.injected:.0%} of groups injected" if kind == NPO else "")
            )
    return blocks


def ratios(blocks: dict[str, list[Block]], kind: str, clock: str = "wall") -> dict[str, float]:
    """Of block medians to TRL's in the same round: least, median, most."""
    pairs = zip(blocks[kind], blocks[TRL], strict=True)
    return spread([statistics.median(getattr(a, clock)) / statistics.median(getattr(b, clock)) for a, b in pairs])


def summary(blocks: dict[str, list[Block]]) -> dict:
    """All figures of a comparison."""
    return {
        "ms": {kind: spread([1000 * block.median for block in blocks[kind]]) for kind in KINDS},
        "ratio": {kind: ratios(blocks, kind) for kind in (NPO, PLAIN)},
        "cpu_ratio": {kind: ratios(blocks, kind, "cpu") for kind in (NPO, PLAIN)},
        "injected": spread([block.injected for block in blocks[NPO]]),
    }


def as_text(figures: dict) -> str:
    rows = [
        [
            kind,
            in_words(figures["ms"][kind], digits=1),
            in_words(figures["ratio"][kind]) if kind != TRL else "1",
            in_words(figures["cpu_ratio"][kind]) if kind != TRL else "1",
        ]
        for kind in KINDS
    ]
    head = ["median (least to most) over rounds", "ms a step", "wall time to TRL's", "CPU time to TRL's"]
    table = markdown(head, rows)
    injected = figures["injected"]
    return f"{table}\n\nGroups injected in guided blocks: {injected['min']:.0%} to {injected['max']:.0%}."


def prepare(config: Any, folder: Path, options: Any) -> Setting:
    """A base model, a scout segment and a real cache from it, made by the stages."""
    from npo_core.problems.load import load_problems

    say("steps: base model, scout and guidance")
    bench = BenchRun(config, folder / "run")
    until = config.bootstrap.scout_steps
    scout = bench.train("scout", until)
    cache = bench.guide(scout, [until]).cache
    problems = load_problems(config.problems)
    return Setting(
        bench.folder(bench.base),
        config.training,
        problems,
        bench.workspace.open_cache(cache, [p.id for p in problems.train], {}),
        folder,
        "cpu",
        config.seed,
        options.steps,
        options.warm_up,
    )


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int)
    options.add_argument("--steps", type=int, help="steps of a block")
    options.add_argument("--warm-up", type=int, default=5, help="steps of a block that do not count")
    options = options.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 6)
    options.steps = options.steps or (10 if options.quick else 25)
    config = demo_config(options.quick)
    settle(config)
    with tempfile.TemporaryDirectory(prefix="npo-steps-") as folder:
        figures = summary(compare(prepare(config, Path(folder), options), options.rounds))
    checks = [Check("replay step with injection / TRL step", figures["ratio"][NPO]["median"], TARGET)]
    return finish(figures, checks, as_text(figures), options)


if __name__ == "__main__":
    sys.exit(main())
