"""AutoNPO's intervention without a rollback: what is mixed in while it lasts, and when it is over."""

from collections.abc import Container, Iterable
from typing import Any

from npo_core import config
from npo_core.mix.prompts import MistakePool
from npo_core.mix.source import Batch


def mix_of(run: config.RunConfig, extra: bool) -> config.Mix:
    """The run's mix with its failures coming back, and with extra samples where `extra`."""
    rescue, mix = run.auto.rescue, run.mix.in_training
    pool = config.MistakePool(
        kind="mistake-pool", share=rescue.share, max_pass_rate=run.auto.control.pool.max_pass_rate
    )
    samples = config.ExtraSamples(kind="extra-samples", chunks=rescue.chunks)
    has_pool = any(part.kind == pool.kind for part in mix.prompts)
    return mix.model_copy(
        update={
            "sources": (*mix.sources, samples) if extra else mix.sources,
            "prompts": mix.prompts if has_pool else (*mix.prompts, pool),
        }
    )


class Rescue:
    """Looks at a mistake pool until it is empty, or too few of those that come again are solved.

    Args:
        settings: how long it lasts. least: Q below which it is over.
    """

    name = "rescue"

    def __init__(self, settings: config.Rescue, least: float, pool: MistakePool):
        self.settings, self.least, self.pool = settings, least, pool
        self.recent: list[list[int]] = []  # of each batch: failures that came again, and were solved

    def begin(self, failures: Iterable[tuple[str, int]]) -> None:
        """Let the pool know failures, with their steps, that it did not see."""
        for prompt_id, step in failures:
            self.pool.pool.setdefault(prompt_id, step)

    def note(self, batch: Batch, found: Container[str]) -> None:
        """Take in what became of a batch whose groups were offered trajectories."""
        again = [group for group in batch.groups if group.prompt_id in self.pool.pool]
        solved = sum(group.pass_rate > 0 or group.prompt_id in found for group in again)
        self.recent = [*self.recent, [len(again), solved]][-self.settings.window :]

    def learn(self, batch: Batch) -> None: ...

    @property
    def over(self) -> bool:
        """Whether all failures are solved, or Q has fallen."""
        again, solved = (sum(values) for values in zip(*self.recent, strict=True)) if self.recent else (0, 0)
        fallen = len(self.recent) == self.settings.window and solved < self.least * again
        return bool(self.recent) and (not self.pool.pool or fallen)

    def state(self) -> list[list[int]]:
        """What became of the newest batches."""
        return self.recent

    def restore(self, state: Any) -> None:
        """Go on from a state."""
        self.recent = [list(values) for values in state]
