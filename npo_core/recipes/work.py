"""What a stage does at most, by its specification: updates, completions, tokens, snapshots."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from typing import Any

from npo_core.config import DataProblems, DynamicSampling, ExtraSamples, Mix, Problems, RunConfig, Source
from npo_core.engines.base import parts
from npo_core.errors import DataError
from npo_core.problems.count import source_rows
from npo_core.stages.specs import EvaluateSpec, GuideSpec, ProbeSpec, Spec, TrainSpec


@dataclass(frozen=True)
class Work:
    """A stage. Completions are None where only reading the data would tell how many; `scored` are passed once more."""

    stage: str
    label: str
    folder: str  # of the stage, in the workspace
    updates: int = 0
    completions: int | None = 0
    at_once: int = 1  # completions of one generation batch
    sequence: int = 1  # completions that one process samples in places of others; training: its share of a batch
    scored: int = 0
    snapshots: int = 0
    sure: bool = True  # it is done whatever the run decides
    branch: str = ""  # that is trained on
    start: int = 0  # update at which the stage begins

    def tokens(self, length: float) -> int | None:
        """Generated tokens where a completion has `length`."""
        return None if self.completions is None else round(self.completions * length)


def measure(spec: Spec, config: RunConfig, steps: Mapping[str, int], until: int) -> dict[str, Any]:
    """The figures of `Work` that follow from a specification.

    Args:
        steps: snapshot -> its step. until: where a training stage ends.
    """
    if isinstance(spec, TrainSpec):
        place = {"branch": spec.branch, "start": steps[spec.start]}
        return train(spec, config, until - steps[spec.start]) | place
    if isinstance(spec, GuideSpec):
        return guide(spec, config, steps)
    if isinstance(spec, ProbeSpec):
        asked, guides = spec.probe.prompts * spec.probe.samples, 1 + spec.probe.behind
        at_once = min(spec.probe.batch or asked, asked)
        sequence = len(parts(asked, at_once)[0])
        return {"completions": guides * asked, "at_once": at_once, "sequence": sequence, "scored": 2 * guides * asked}
    return evaluate(spec) if isinstance(spec, EvaluateSpec) else {}


def train(spec: TrainSpec, config: RunConfig, updates: int) -> dict[str, int | None]:
    """Updates, completions and snapshots of a training stage."""
    training = config.training
    batches = ceil(updates / training.updates_per_batch)
    return {
        "updates": updates,
        "completions": round(batches * training.batch * (1 + extra_rounds(spec.mix, training.batch))),
        "at_once": training.batch,
        "snapshots": ceil(updates / training.snapshot_every),
    }


def extra_rounds(mix: Mix, batch: int) -> float:
    """Rollouts beside a batch's own, at most, in sizes of a batch: every group dead, and nothing ever solved."""
    most = 0.0
    for source in mix.sources:
        if isinstance(source, ExtraSamples):
            most += source.chunks if source.budget is None else min(source.chunks, source.budget / batch)
    return most + sum(source.rounds for source in mix.prompts if isinstance(source, DynamicSampling))


def guide(spec: GuideSpec, config: RunConfig, steps: Mapping[str, int]) -> dict[str, int | None]:
    """Every prompt asked as often as allowed: what is passed, or solved early, takes less."""
    end = steps[spec.guides[-1]] if spec.until is None else spec.until
    prompts, pool = prompts_met(config, end - steps[spec.rollback]), config.auto.control.pool.size
    if spec.pool_only or spec.failures:
        prompts = pool if spec.failures else min(prompts, pool)
    guidance = spec.guidance
    rows = min(guidance.chunk_prompts, prompts) * guidance.samples_per_round
    at_once = min(rows, guidance.batch or rows)  # a round that fits is drained; rows that wait fill places
    return {
        "completions": (len(spec.horizons or spec.guides) or spec.drawn_outside) * prompts * guidance.samples,
        "at_once": max(at_once, 1),
        "sequence": rows if at_once == rows else min(guidance.chunk_prompts, prompts) * guidance.samples,
        "scored": prompts,
    }


def evaluate(spec: EvaluateSpec) -> dict[str, int | None]:
    """Completions of an evaluation; None where the number of problems is not known."""
    evaluation, number = spec.evaluation, len(spec.snapshots)
    asked, further = held_out(spec.problems), benchmarks(spec.problems)
    times = number if evaluation.benchmarks == "all" else 1
    rows = None
    if asked is not None and further is not None:
        rows = evaluation.samples * (number * asked + times * further)
    most = evaluation.samples * max(asked or 1, 1)
    return {"completions": rows, "at_once": evaluation.batch, "sequence": len(parts(most, evaluation.batch)[0])}


def prompts_met(config: RunConfig, updates: int) -> int:
    """Prompts that training meets in so many updates, at most."""
    training, problems = config.training, config.problems
    prompts = ceil(updates / training.updates_per_batch) * training.prompts_per_step
    return min(prompts, problems.train) if not isinstance(problems, DataProblems) else prompts


def held_out(problems: Problems) -> int | None:
    """Held-out problems, at most; None where only a hub would tell, or there is nothing to read."""
    if not isinstance(problems, DataProblems):
        return problems.held_out
    return problems.held_out_rows if problems.held_out is None else at_most(problems.held_out)


def benchmarks(problems: Problems) -> int | None:
    """Problems of further data sets, at most; None as above."""
    counts = [at_most(source) for source in getattr(problems, "benchmarks", {}).values()]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def at_most(source: Source) -> int | None:
    """Rows of a source as far as this machine can tell, before any is dropped; else its limit."""
    with suppress(DataError):
        if (rows := source_rows(source)) is not None:
            return rows
    return source.limit
