"""How a flow calls its tasks: with the run's retries, one after the other, and with an account of what was spent."""

from dataclasses import dataclass
from typing import Any

from prefect import Task

from npo_core.control.decision import Left
from npo_core.stages.launch import StageResult
from tasks.run import Run
from tasks.train import train


@dataclass(frozen=True)
class Trained:
    """A finished segment: its id, its last snapshot and step, why it ended, and all its snapshots by step."""

    segment: str
    end: str
    step: int
    ended: str  # until, warning or tokens
    snapshots: dict[int, str]


class Steps:
    """Calls tasks with the retries that the run's configuration asks for, and counts updates and generated tokens."""

    def __init__(self, run: Run):
        self.run = run
        self.updates = self.tokens = 0.0  # of everything but evaluations

    def __call__(self, task: Task, *args: Any, **kwargs: Any) -> Any:
        execution = self.run.config.execution
        result = task.with_options(retries=execution.retries, retry_delay_seconds=execution.retry_delay)(
            *args, **kwargs
        )
        if isinstance(result, StageResult) and result.stage != "evaluate":
            self.updates += result.cost.get("updates", 0.0)
            self.tokens += result.cost.get("tokens_generated", 0.0)
        return result

    def train(self, branch: str, **settings: Any) -> Trained:
        """Train a branch; `settings` are those of `Run.train`: start, until, cache and so on."""
        spec = self.run.train(branch=branch, **settings)
        label = f"train {branch} to {spec.until}" + (" guided" if spec.cache else "")
        result = self(train, spec, label, self.run.config.name).result
        snapshots = {int(step): id_ for step, id_ in result["snapshots"].items()}
        return Trained(result["segment"], result["end"], result["step"], result["ended"], snapshots)

    def left(self) -> Left:
        """What the budget of AutoNPO still allows; null where it has no limit."""
        auto = self.run.config.auto
        return Left(
            updates=None if auto.budget_updates is None else max(auto.budget_updates - int(self.updates), 0),
            tokens=None if auto.budget_tokens is None else max(auto.budget_tokens - int(self.tokens), 0),
        )

    def evaluated(self, *branches: str) -> list[str]:
        """The snapshots to evaluate on the way to some branches' tips: every `evaluation.every` steps, and the tip."""
        every, timeline = self.run.config.evaluation.every, self.run.workspace.timeline
        chosen: dict[str, int] = {}
        for branch in branches:
            states = timeline.states(branch)
            chosen |= {id_: step for step, id_ in states.items() if step % every == 0 or step == max(states)}
        return sorted(chosen, key=chosen.__getitem__)
