"""How a flow calls its tasks: with the run's retries, one after the other."""

from dataclasses import dataclass
from typing import Any

from prefect import Task

from tasks.run import Run
from tasks.train import train


@dataclass(frozen=True)
class Trained:
    """A finished segment: its id, its last snapshot, and all its snapshots by step."""

    segment: str
    end: str
    snapshots: dict[int, str]


class Steps:
    """Calls tasks with the retries that the run's configuration asks for."""

    def __init__(self, run: Run):
        self.run = run

    def __call__(self, task: Task, *args: Any, **kwargs: Any) -> Any:
        execution = self.run.config.execution
        return task.with_options(retries=execution.retries, retry_delay_seconds=execution.retry_delay)(*args, **kwargs)

    def train(self, branch: str, *, start: str, until: int, cache: str | None = None, fresh: bool = False) -> Trained:
        """Train a branch to step `until`, guided where a cache is given."""
        spec = self.run.train(branch=branch, start=start, until=until, cache=cache, fresh=fresh)
        label = f"train {branch} to {until}" + (" guided" if cache else "")
        result = self(train, spec, label, self.run.config.name).result
        return Trained(result["segment"], result["end"], {int(step): id_ for step, id_ in result["snapshots"].items()})

    def evaluated(self, base: str, *parts: Trained) -> list[str]:
        """The snapshots to evaluate: the base and every `evaluation.every` steps, rising."""
        by_step = {step: id_ for part in parts for step, id_ in part.snapshots.items()}
        return [base, *(by_step[step] for step in sorted(by_step) if step % self.run.config.evaluation.every == 0)]
