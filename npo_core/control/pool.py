"""The mistake pool: prompts that the policy failed lately, with the step of each failure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from npo_core import config


@dataclass(frozen=True, slots=True)
class Mistake:
    """A prompt and the newest update at which its group's pass rate was too low."""

    prompt_id: str
    step: int
    pass_rate: float


class MistakePool:
    """At most `size` mistakes, the newest failure of each prompt; the oldest leave first.

    A prompt that is passed later stays until it is pushed out: the probe asks whether it is solved now.
    """

    def __init__(self, settings: config.Pool):
        self.settings = settings
        self.mistakes: dict[str, Mistake] = {}  # oldest first

    def add(self, step: int, outcomes: Iterable[tuple[str, float]]) -> None:
        """Take in (prompt id, on-policy pass rate) of one generation batch."""
        for prompt_id, pass_rate in outcomes:
            if pass_rate <= self.settings.max_pass_rate:
                self.mistakes.pop(prompt_id, None)
                self.mistakes[prompt_id] = Mistake(prompt_id, step, pass_rate)
        for oldest in list(self.mistakes)[: max(len(self.mistakes) - self.settings.size, 0)]:
            del self.mistakes[oldest]

    def since(self, step: int) -> list[Mistake]:
        """B_Delta: the failures after update `step`, oldest first."""
        return [mistake for mistake in self.mistakes.values() if mistake.step > step]

    def state(self) -> list[list[Any]]:
        """What a snapshot keeps: rows of prompt id, step and pass rate, oldest first."""
        return [[m.prompt_id, m.step, m.pass_rate] for m in self.mistakes.values()]

    def restore(self, state: Sequence[Sequence[Any]]) -> None:
        """Take over what `state` gave."""
        self.mistakes = {prompt_id: Mistake(prompt_id, step, rate) for prompt_id, step, rate in state}
