"""Which prompts a batch asks: sources of prompts fill places at its end, the rest is the data's order."""

import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from npo_core import config
from npo_core.mix.source import Batch, Stateless
from npo_core.mix.store import SuccessStore


class Prompts(Protocol):
    """Chooses prompts for the places that it may fill."""

    name: str

    def choose(self, step: int, planned: Sequence[str], places: int, rng: random.Random) -> list[str]:
        """At most `places` prompts, for the batch that update `step` trains on first; `planned` are asked anyway."""
        ...

    def learn(self, batch: Batch) -> None: ...

    def state(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


class MistakePool:
    """Prompts that were failed; they stay until they are solved."""

    name = "mistake-pool"

    def __init__(self, settings: config.MistakePool, store: SuccessStore | None):
        self.settings, self.store = settings, store
        self.pool: dict[str, int] = {}  # prompt -> update of its last failure

    def choose(self, step: int, planned: Sequence[str], places: int, rng: random.Random) -> list[str]:
        begun = step - self.settings.from_step
        if begun <= 0:
            return []
        if self.settings.grow_steps:
            places = math.floor(places * min(begun / self.settings.grow_steps, 1))
        return draw(sorted(self.pool.keys() - set(planned)), places, rng)

    def learn(self, batch: Batch) -> None:
        for group in batch.groups:
            if group.pass_rate <= self.settings.max_pass_rate:
                self.pool[group.prompt_id] = batch.step
            if group.pass_rate > self.settings.leave_above or self._has_success(group.prompt_id):
                self.pool.pop(group.prompt_id, None)
        batch.count("pool_size", len(self.pool))

    def _has_success(self, prompt_id: str) -> bool:
        return self.settings.without_success and self.store is not None and prompt_id in self.store

    def state(self) -> dict[str, int]:
        return self.pool

    def restore(self, state: dict[str, int]) -> None:
        self.pool = dict(state)


class ReviewQueue:
    """All-right prompts in the order in which they entered; a prompt that is not all right at its review goes back."""

    name = "review-queue"

    def __init__(self, settings: config.ReviewQueue, seed_of: Callable[..., int]):
        self.settings, self.seed_of = settings, seed_of
        self.queue: deque[str] = deque()
        self.asked: set[str] = set()  # for review, in the batch under way

    def choose(self, step: int, planned: Sequence[str], places: int, rng: random.Random) -> list[str]:
        if step <= self.settings.from_step or step % self.settings.every:
            return []
        taken = [id_ for id_ in self.queue if id_ not in set(planned)][:places]
        self.asked = set(taken)
        self.queue = deque(id_ for id_ in self.queue if id_ not in self.asked)
        return taken

    def learn(self, batch: Batch) -> None:
        for group in batch.groups:
            if group.prompt_id in self.asked:
                if group.pass_rate < 1 or math.isnan(group.pass_rate):
                    self.queue.append(group.prompt_id)
            elif group.pass_rate == 1 and self._enters(batch.step, group.prompt_id):
                self.queue.append(group.prompt_id)
        self.asked = set()
        batch.count("queue_size", len(self.queue))

    def _enters(self, step: int, prompt_id: str) -> bool:
        if prompt_id in self.queue or len(self.queue) >= self.settings.size:
            return False
        return random.Random(self.seed_of("review", step, prompt_id)).random() < self.settings.probability

    def state(self) -> list[str]:
        return list(self.queue)

    def restore(self, state: Iterable[str]) -> None:
        self.queue = deque(state)


class SuccessBuckets:
    """Prompts of the success store, those that about half a group solved first of all."""

    name = "success-buckets"

    def __init__(self, settings: config.SuccessBuckets, store: SuccessStore, group_size: int):
        self.settings, self.store, self.group_size = settings, store, group_size
        self.begun = False

    def choose(self, step: int, planned: Sequence[str], places: int, rng: random.Random) -> list[str]:
        if not self.begun or step <= self.settings.from_step:
            return []
        held = sorted(self.store.prompts.keys() - set(planned))
        middle, spread = self.group_size / 2, self.settings.sigma
        weights = [
            math.exp(-(((self.store.prompts[id_].pass_rate * self.group_size - middle) / spread) ** 2) / 2)
            for id_ in held
        ]
        return draw_weighted(held, weights, places, rng)

    def learn(self, batch: Batch) -> None:
        known = [group.pass_rate for group in batch.groups if not math.isnan(group.pass_rate)]
        if known and sum(known) / len(known) > self.settings.start_above:
            self.begun = True

    def state(self) -> bool:
        return self.begun

    def restore(self, state: bool) -> None:
        self.begun = state


class Rest:
    """Solved prompts rest; `choose` gives fresh prompts for the places of those that do."""

    name = "rest"

    def __init__(self, settings: config.Rest, prompt_ids: Sequence[str]):
        self.settings, self.prompt_ids = settings, prompt_ids
        self.streaks: dict[str, int] = {}  # all-right visits in a row; below 0: turns still to rest

    def resting(self, planned: Iterable[str]) -> set[str]:
        """Which planned prompts rest this time; each is one turn closer to its return."""
        found = {id_ for id_ in planned if self.streaks.get(id_, 0) < 0}
        for id_ in found:
            self.streaks[id_] += 1
        return found

    def fresh(self, planned: Sequence[str], places: int, rng: random.Random) -> list[str]:
        """Prompts that do not rest, from all of the data, for places of those that do."""
        known, found = set(planned), []
        for _ in range(20 * places):  # enough where most prompts do not rest
            if len(found) == places:
                break
            id_ = self.prompt_ids[rng.randrange(len(self.prompt_ids))]
            if id_ not in known and self.streaks.get(id_, 0) >= 0:
                known.add(id_)
                found.append(id_)
        return found

    def learn(self, batch: Batch) -> None:
        for group in batch.groups:
            if group.pass_rate == 1:
                streak = max(self.streaks.get(group.prompt_id, 0), 0) + 1
                self.streaks[group.prompt_id] = -self.settings.visits if streak >= self.settings.after else streak
            elif self.streaks.get(group.prompt_id, 0):
                del self.streaks[group.prompt_id]

    def state(self) -> dict[str, int]:
        return self.streaks

    def restore(self, state: dict[str, int]) -> None:
        self.streaks = dict(state)


class DynamicSampling(Stateless):
    """Which others are asked in place of dead groups."""

    name = "dynamic-sampling"

    def __init__(self, settings: config.DynamicSampling, prompt_ids: Sequence[str]):
        self.settings, self.prompt_ids = settings, prompt_ids

    def others(self, planned: Iterable[str], places: int, rng: random.Random) -> list[str]:
        """So many prompts that are not planned, at random, if there are so many."""
        known, found = set(planned), []
        while len(found) < min(places, len(self.prompt_ids) - len(set(planned))):
            id_ = self.prompt_ids[rng.randrange(len(self.prompt_ids))]
            if id_ not in known:
                known.add(id_)
                found.append(id_)
        return found


def draw(ids: Sequence[str], number: int, rng: random.Random) -> list[str]:
    """So many of them at random, each once; fewer where there are fewer."""
    return rng.sample(ids, min(number, len(ids)))


def draw_weighted(ids: Sequence[str], weights: Sequence[float], number: int, rng: random.Random) -> list[str]:
    """So many of them, each once, with chances by weight (Efraimidis and Spirakis, 2006)."""
    keys = {id_: math.log(1 - rng.random()) / weight for id_, weight in zip(ids, weights, strict=True) if weight > 0}
    return sorted(keys, key=keys.__getitem__, reverse=True)[:number]
