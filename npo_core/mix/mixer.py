"""Sources, success store, replay and prompts of a run as one object, which the trainer asks and a snapshot keeps."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from npo_core import config
from npo_core.errors import ConfigError, DataError
from npo_core.guidance.parquet import batch_to_rows, rows_to_table
from npo_core.guidance.trajectory import Trajectory
from npo_core.mix import prompts, sources
from npo_core.mix.plugin import plugin
from npo_core.mix.rescue import Rescue
from npo_core.mix.source import Batch, Source
from npo_core.mix.store import SuccessStore
from npo_core.seeds import derive_seed

MIX_FILE, SUCCESSES_FILE = "npo_mix.json", "npo_successes.parquet"  # of a snapshot


@dataclass(frozen=True, slots=True)
class ReplayedRow:
    """A stored completion that is trained on beside the batch's groups."""

    trajectory: Trajectory
    weight: float  # of the token mean of its log-probability, in rows of the batch


class Mixer:
    """What is mixed into a run's batches.

    Args:
        settings: sources, store, replay, prompts. prompt_ids: all training prompts, in the order of the data.
        group_size: n. seed: of its choices.
        guidance: a guidance cache, asked before all other sources; None: there is none.
        rescue: how long AutoNPO's intervention without a rollback lasts, and the Q below which it is over; None: there
            is none.

    Raises:
        ConfigError: a plugin cannot be imported or made.

    Everything it decides follows from its state, the seed and the step, and is the same on all processes.
    """

    def __init__(
        self,
        settings: config.Mix | None = None,
        *,
        prompt_ids: Sequence[str] = (),
        group_size: int = 8,
        seed: int = 0,
        guidance: Any = None,
        rescue: tuple[config.Rescue, float] | None = None,
    ):
        self.settings = settings or config.Mix()
        self.group_size, self.seed = group_size, seed
        self.store = SuccessStore(self.settings.store) if self.settings.store else None
        self.sources: list[Source] = [] if guidance is None else [sources.CacheSource(guidance)]
        self.sources += [self._source(chosen) for chosen in self.settings.sources]
        self.prompts = [self._prompts(chosen, prompt_ids) for chosen in self.settings.prompts]
        pool = next((part for part in self.prompts if isinstance(part, prompts.MistakePool)), None)
        self.rescue = Rescue(*rescue, pool) if rescue and pool else None
        names = [part.name for part in self.parts]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"mix: two parts are called {twice}, and would share their state: rename yours.")

    def _source(self, chosen: Any) -> Source:
        if isinstance(chosen, config.ExtraSamples):
            return sources.ExtraSamples(chosen)
        return sources.PastSuccesses(chosen, self._held) if chosen.kind == "past-successes" else plugin(chosen)

    def _prompts(self, chosen: Any, prompt_ids: Sequence[str]) -> Any:
        if isinstance(chosen, config.MistakePool):
            return prompts.MistakePool(chosen, self.store)
        if isinstance(chosen, config.ReviewQueue):
            return prompts.ReviewQueue(chosen, self.seed_of)
        if isinstance(chosen, config.SuccessBuckets):
            return prompts.SuccessBuckets(chosen, self._held, self.group_size)
        kind = prompts.Rest if isinstance(chosen, config.Rest) else prompts.DynamicSampling
        return kind(chosen, prompt_ids)

    @property
    def _held(self) -> SuccessStore:
        """The store, for those that the configuration gives one."""
        if self.store is None:
            raise ConfigError("mix.store is not there: give it, for what takes completions from it.")
        return self.store

    @property
    def parts(self) -> list[Any]:
        """All that learns from batches and has a state, by unique names."""
        return [*self.sources, *self.prompts, *([self.rescue] if self.rescue else [])]

    @property
    def injects(self) -> bool:
        """Whether there is a source of trajectories."""
        return bool(self.sources)

    @property
    def wants_successes(self) -> bool:
        """Whether anybody looks at a group's right completions, which then have to be gathered."""
        return self.settings.online and (self.store is not None or bool(self.settings.sources))

    def seed_of(self, *parts: Any) -> int:
        """A seed of this mixer from parts."""
        return derive_seed("mix", self.seed, *parts)

    def _rng(self, *parts: Any) -> random.Random:
        return random.Random(self.seed_of(*parts))

    # --- which prompts ---------------------------------------------------------------------------------------------

    def choose(self, step: int, planned: Sequence[str]) -> list[str]:
        """The prompts of the batch that update `step` trains on first, in place of those that the data's order has."""
        chosen = list(planned)
        for source in self.prompts:
            if isinstance(source, prompts.Rest):
                resting = source.resting(planned)
                free = [i for i, id_ in enumerate(chosen) if id_ in resting]
                fresh = source.fresh(chosen, len(free), self._rng("rest", step))
                for place, id_ in zip(free, fresh, strict=False):
                    chosen[place] = id_
        end = len(chosen)
        for source in self.prompts:
            if share := getattr(source.settings, "share", None):
                places = min(round(share * len(planned)), end)
                head, tail = chosen[: end - places], chosen[end - places : end]
                found = source.choose(step, [*head, *chosen[end:]], places, self._rng(source.name, step))
                stay = [id_ for id_ in tail if id_ not in found][: places - len(found)]
                chosen[:end] = [*head, *stay, *found]
                end -= len(found)
        return chosen

    @property
    def dynamic(self) -> prompts.DynamicSampling | None:
        """Fills a batch up in place of dead groups; None: dead groups stay."""
        return next((source for source in self.prompts if isinstance(source, prompts.DynamicSampling)), None)

    def others(self, step: int, round_: int, planned: Sequence[str], places: int) -> list[str]:
        """Prompts in place of dead groups."""
        dynamic = self.dynamic
        return dynamic.others(planned, places, self._rng("dynamic", step, round_)) if dynamic else []

    # --- which trajectories ----------------------------------------------------------------------------------------

    def find(self, wanted: Sequence[str], batch: Batch, slots: int = 1) -> dict[str, tuple[str, list[Trajectory]]]:
        """Of each wanted prompt that a source has `slots` trajectories of: the source's name, and these.

        Sources are asked in turn, each for what those before it do not have.
        """
        found: dict[str, tuple[str, list[Trajectory]]] = {}
        for source in self.sources:
            left = [id_ for id_ in dict.fromkeys(wanted) if id_ not in found]
            given = source.find(left, batch) if left else {}
            for id_, rows in given.items():
                if len(rows) >= slots:
                    found[id_] = (source.name, [checked(row, id_, source.name) for row in rows[:slots]])
        if self.rescue is not None:
            self.rescue.note(batch, found)
        return found

    def learn(self, batch: Batch, found: Mapping[str, tuple[str, Sequence[Trajectory]]]) -> None:
        """Take in a batch after its groups took what was found."""
        if self.store is not None:
            extra = sources.ExtraSamples.name
            self.store.learn(batch, {id_: rows[0] for id_, (name, rows) in found.items() if name == extra})
            batch.count("store_size", len(self.store.prompts))
        for part in self.parts:
            part.learn(batch)

    def replayed(self, step: int, asked: Sequence[str]) -> list[ReplayedRow]:
        """Stored rare successes for update `step`, of prompts that its batch does not ask."""
        if (settings := self.settings.replay) is None:
            return []
        known = set(asked)
        rare = sorted(
            id_
            for id_, stored in self._held.prompts.items()
            if id_ not in known
            and stored.pass_rate <= settings.max_pass_rate
            and step - stored.newest.guide_step <= settings.max_age
        )
        weight = settings.weight * (self.group_size - 1) / math.sqrt(self.group_size)
        chosen = prompts.draw(rare, settings.rows, self._rng("replay", step))
        return [ReplayedRow(self._held.prompts[id_].newest, weight) for id_ in chosen]

    # --- state -----------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint's folder; nothing where nothing is kept."""
        if not self.settings.online:
            return
        rows, completions = self.store.state() if self.store else ([], [])
        state = {
            "store": rows,
            "completions": [row.digest().hex() for row in completions],  # so that this file tells all of the state
            "parts": {part.name: part.state() for part in self.parts},
        }
        (folder / MIX_FILE).write_text(json.dumps(state, sort_keys=True))
        if completions:
            pq.write_table(rows_to_table(completions), folder / SUCCESSES_FILE, compression="zstd")

    def load(self, folder: Path) -> None:
        """Go on from the state in a snapshot's folder; one without leaves this one empty.

        Raises:
            DataError: the completions are not those that the state names.
        """
        if not self.settings.online or not (file := folder / MIX_FILE).exists():
            return
        state, completions = json.loads(file.read_text()), read_completions(folder / SUCCESSES_FILE)
        if [row.digest().hex() for row in completions] != state["completions"]:
            raise DataError(f"{folder / SUCCESSES_FILE} does not hold what {MIX_FILE} says: copy the snapshot again.")
        if self.store is not None:
            self.store.restore(state["store"], completions)
        for part in self.parts:
            if (kept := state["parts"].get(part.name)) is not None:
                part.restore(kept)


def read_completions(file: Path) -> list[Trajectory]:
    """The trajectories of a file; none where there is no file."""
    if not file.exists():
        return []
    table = pq.read_table(file).combine_chunks()
    return [row for batch in table.to_batches() for row in batch_to_rows(pa.record_batch(batch))]


def checked(row: Any, prompt_id: str, source: str) -> Trajectory:
    """A trajectory as it may be injected. Raises DataError naming source and prompt."""
    if not isinstance(row, Trajectory):
        raise DataError(f"Source {source} gave a {type(row).__name__} for prompt {prompt_id}, not a Trajectory.")
    if row.outcome != "correct" or not len(row.token_ids) or not np.isfinite(row.rewards).all():
        raise DataError(
            f"Source {source} gave for prompt {prompt_id} what may not be injected: outcome {row.outcome}, "
            f"{len(row.token_ids)} tokens, rewards {row.rewards.tolist()}; give verified-correct ones alone."
        )
    return row
