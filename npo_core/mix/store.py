"""The success store: the policy's own correct completions, by prompt."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from npo_core import config
from npo_core.guidance.trajectory import Trajectory
from npo_core.mix.source import Batch


@dataclass
class Stored:
    """What the store has of a prompt: completions, newest last, and the pass rate at its last visit."""

    completions: list[Trajectory]
    pass_rate: float
    visited: int  # update

    @property
    def newest(self) -> Trajectory:
        return self.completions[-1]


class SuccessStore:
    """At most `size` prompts, with at most `keep` completions each; those not visited for longest leave first.

    A completion enters where its group's pass rate p is 0 < p <= `max_pass_rate`, or where extra samples found it
    (p = 0). A prompt leaves at a visit with p > `drop_above`.
    """

    def __init__(self, settings: config.SuccessStore):
        self.settings = settings
        self.prompts: dict[str, Stored] = {}  # by last visit, the oldest first

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self.prompts

    def learn(self, batch: Batch, found: Mapping[str, Trajectory]) -> None:
        """Take in a batch; `found`: what extra samples solved, by prompt."""
        for group in batch.groups:
            before = self.prompts.pop(group.prompt_id, None)
            if group.pass_rate > self.settings.drop_above:
                continue
            new = list(group.correct[:1]) if 0 < group.pass_rate <= self.settings.max_pass_rate else []
            new += [found[group.prompt_id]] if group.prompt_id in found else []
            kept = [*(before.completions if before else []), *new][-self.settings.keep :]
            if kept:
                rate = before.pass_rate if before and np.isnan(group.pass_rate) else group.pass_rate
                self.prompts[group.prompt_id] = Stored(kept, rate, batch.step)
        for oldest in list(self.prompts)[: max(len(self.prompts) - self.settings.size, 0)]:
            del self.prompts[oldest]

    def state(self) -> tuple[list[list], list[Trajectory]]:
        """Plain values of each prompt, and all completions in the same order."""
        rows = [[id_, s.pass_rate, s.visited, len(s.completions)] for id_, s in self.prompts.items()]
        return rows, [row for stored in self.prompts.values() for row in stored.completions]

    def restore(self, rows: list[list], completions: list[Trajectory]) -> None:
        self.prompts, first = {}, 0
        for id_, rate, visited, number in rows:
            self.prompts[id_] = Stored(completions[first : first + number], rate, visited)
            first += number
