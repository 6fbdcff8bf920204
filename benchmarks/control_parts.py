"""Where an AutoNPO run's time and tokens went, from what its stages left in the workspace."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.flow_parts import end, read_stage, training_parts
from npo_core.stages.workspace import Workspace
from npo_core.timeline.segments import TIMINGS, read_steps

TRAINING, REPLAYS, GUIDANCE, PROBES = "training", "replays, guided", "guidance", "probes"
BETWEEN, RESTARTS = "decisions, and starts of the stages around them", "training taken up again: model, trainer, data"
EVALUATION = "evaluation"
CONTROL = (PROBES, BETWEEN, RESTARTS)


@dataclass(frozen=True)
class Parts:
    """Seconds and generated tokens by part of the run, from the start of its first stage to the end of its last."""

    seconds: dict[str, float]
    tokens: dict[str, float]

    @property
    def control_seconds(self) -> float:
        """Share of the time that control took."""
        return sum(self.seconds.get(name, 0.0) for name in CONTROL) / sum(self.seconds.values())

    @property
    def control_tokens(self) -> float:
        """Share of the tokens, those of evaluations left out."""
        spent = sum(count for name, count in self.tokens.items() if name != EVALUATION)
        return self.tokens.get(PROBES, 0.0) / spent


def by_part(folder: Path, plain: Path) -> Parts:
    """The parts of a finished run in a local workspace; `plain` is a GRPO run beside it.

    What a run without control pays between training and evaluation (artifacts, the start of a stage) is no control.
    """
    workspace, stages = Workspace(folder), read_stages(folder)
    seconds, tokens = defaultdict(float), defaultdict(float)
    trained = [stage for stage in stages if stage["stage"] == "train"]
    for stage in stages:
        restart = 0.0
        if stage in trained[1:]:
            restart = next(iter(training_parts(workspace, stage).values()))
            seconds[RESTARTS] += restart
        seconds[part_of(stage)] += stage["seconds"] - restart
        tokens[part_of(stage)] += stage["result"].get("cost", {}).get("tokens_generated", 0.0)
    seconds[BETWEEN] = max(gaps(stages) - gaps(read_stages(plain)), 0.0)
    return Parts(dict(seconds), dict(tokens))


def read_stages(folder: Path) -> list[dict[str, Any]]:
    """All stages of a run as they came."""
    return sorted((read_stage(path) for path in (folder / "stages").iterdir()), key=lambda stage: stage["started"])


def part_of(stage: dict[str, Any]) -> str:
    if stage["stage"] == "train":
        return REPLAYS if stage["spec"]["cache"] else TRAINING
    return {"base": "base model taken in", "guide": GUIDANCE, "probe": PROBES, "evaluate": EVALUATION}[stage["stage"]]


def gaps(stages: Sequence[dict[str, Any]]) -> float:
    """Seconds between the end of each stage and the start of the next."""
    return sum(later["started"] - end(earlier) for earlier, later in zip(stages, stages[1:], strict=False))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Every update on the branch `main`, without its timings."""
    timeline = Workspace(folder).timeline
    rows = [row for part in timeline.path("main") for row in read_steps(timeline.store, part).to_pylist()]
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]
