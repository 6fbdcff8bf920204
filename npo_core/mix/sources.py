"""The sources that come with the house; one of your own is a class like these (docs/mix.md)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from npo_core import config
from npo_core.guidance.trajectory import Trajectory
from npo_core.mix.source import Batch, Stateless
from npo_core.mix.store import SuccessStore


class CacheSource(Stateless):
    """A guidance cache, whoever wrote it; anything with `get(prompt_id)` serves."""

    name = "cache"

    def __init__(self, guidance: Any):
        self.guidance = guidance

    def find(self, wanted: Sequence[str], batch: Batch) -> dict[str, Sequence[Trajectory]]:
        """What the cache has of the prompts."""
        several = getattr(self.guidance, "get_all", None)
        if several is not None:
            return {id_: rows for id_ in wanted if (rows := several(id_))}
        return {id_: [row] for id_ in wanted if (row := self.guidance.get(id_)) is not None}


class PastSuccesses(Stateless):
    """What the success store holds of a prompt: past replay."""

    name = "past-successes"

    def __init__(self, settings: config.PastSuccesses, store: SuccessStore):
        self.settings, self.store = settings, store

    def find(self, wanted: Sequence[str], batch: Batch) -> dict[str, Sequence[Trajectory]]:
        """Stored completions, the newest or the likeliest first."""
        held: dict[str, Sequence[Trajectory]]
        held = {id_: self.store.prompts[id_].completions[::-1] for id_ in wanted if id_ in self.store}
        if self.settings.pick == "likeliest":
            held = {id_: sorted(rows, key=lambda row: -row.logprobs.mean()) for id_, rows in held.items()}
        return held


class ExtraSamples:
    """The current policy, asked again about the prompts it failed: rounds, until the first right completion."""

    name = "extra-samples"

    def __init__(self, settings: config.ExtraSamples):
        self.settings = settings
        self.history: dict[str, list[float]] = {}  # prompt -> decayed successes, samples, tokens

    def find(self, wanted: Sequence[str], batch: Batch) -> dict[str, Sequence[Trajectory]]:
        """The first right completion of each prompt that more samples solve."""
        if batch.step <= self.settings.from_step:
            return {}
        found: dict[str, Sequence[Trajectory]] = {}
        left, chunks = self.ranked(wanted), self.settings.chunks
        groups_left = chunks * len(left) if self.settings.budget is None else self.settings.budget // batch.group_size
        for _ in range(chunks):
            left = left[:groups_left]
            if not left:
                break
            groups_left -= len(left)
            groups = batch.draw(left)
            found |= {group.prompt_id: group.correct[:1] for group in groups if group.correct}
            left = [id_ for id_ in left if id_ not in found]
        batch.count("prompts_rescued", len(found))
        return found

    def ranked(self, wanted: Sequence[str]) -> list[str]:
        """Whom to ask first; those without a history come in the order of the batch, as if half a sample was right."""
        if self.settings.choice == "all":
            return list(wanted)

        def promise(id_: str) -> float:
            right, samples, tokens = self.history.get(id_, (0.0, 0.0, 0.0))
            return (right + 0.5) / ((samples if self.settings.choice == "history" else tokens) + 1.0)

        return sorted(wanted, key=lambda id_: -promise(id_))

    def learn(self, batch: Batch) -> None:
        """Keep the history that `choice` reads."""
        if self.settings.choice == "all":
            return
        for group in batch.groups:
            if not math.isnan(group.pass_rate):
                before = self.history.get(group.prompt_id, [0.0, 0.0, 0.0])
                tokens = sum(len(row.token_ids) for row in group.correct) / max(len(group.correct), 1)
                new = [group.pass_rate * batch.group_size, batch.group_size, tokens * batch.group_size]
                self.history[group.prompt_id] = [
                    self.settings.decay * old + now for old, now in zip(before, new, strict=True)
                ]

    def state(self) -> Mapping[str, list[float]]:
        """Prompt -> decayed successes, samples and tokens."""
        return self.history

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Go on from a state."""
        self.history = {id_: list(values) for id_, values in state.items()}
