"""What a candidate costs and how many failures it solves: expected, from a probe and the updates so far.

Of the failures that were probed, those that a sample solved share one chance of a further one; so do those that none
solved, whose chance is that of Good and Turing or, of a guide, what it solves of them. A replay is priced as it was
generated; where the run stays, failures take places of its batches, and these count.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from npo_core.config import RunConfig
from npo_core.control.decision import Price
from npo_core.control.probe import Candidate, ProbeResult

PHASES = ("seconds_generate", "seconds_verify", "seconds_update")


class Kind(NamedTuple):
    """A kind of failures."""

    share: float
    own: float  # chance that a sample of the policy that is guided is right
    guide: float  # chance that a sample of the guide is right


class Prices:
    """Prices of a probe's candidates.

    Args:
        rows: metrics of every update on the way to the snapshot that was probed.
    """

    def __init__(self, config: RunConfig, probe: ProbeResult, rows: Sequence[Mapping[str, Any]]):
        self.config, self.probe, self.rows = config, probe, rows
        training, rescue = config.training, config.auto.rescue
        self.batches = rescue.updates / training.updates_per_batch
        self.places = min(round(rescue.share * training.prompts_per_step), probe.pool)  # of a batch, for failures

    def failures(self, candidate: Candidate) -> float:
        """Failures in reach: met again in a replay, or in the batches of a rescue."""
        if candidate.delta > 0:
            return self.probe.pool * candidate.prompts / max(self.probe.prompts, 1)
        return min(self.probe.pool, self.batches * self.places)

    def rescued(self, candidate: Candidate) -> float:
        """Failures that get a right completion or trajectory."""
        n, most = self.config.training.group_size, self._samples(candidate)
        own = 0 if candidate.delta > 0 else n
        solved = sum(k.share * (1 - (1 - k.own) ** own * (1 - k.guide) ** most) for k in self.kinds(candidate))
        return self.failures(candidate) * solved

    def of(self, candidate: Candidate) -> Price:
        """The price of a candidate."""
        replayed = [row for row in self.rows if row["step"] > candidate.step] if candidate.delta > 0 else []
        again = sum(row["tokens_generated"] or 0.0 for row in replayed)
        drawn = self._drawn(candidate) * (candidate.length or 0.0)
        seconds = sum(row.get(phase) or 0.0 for row in replayed for phase in PHASES)
        return Price(
            updates=float(max(candidate.delta, 0)),
            tokens=again + drawn,
            seconds=seconds + drawn * self._seconds_a_token(),
        )

    def kinds(self, candidate: Candidate) -> list[Kind]:
        """The failures in reach by what solves them."""
        q, solved = candidate.q or 0.0, candidate.solved
        if candidate.delta > 0:
            solved = 1.0 if solved is None else solved  # a probe of before 0.3 does not say
            return [Kind(solved, 0.0, min(q / solved, 1.0) if solved else 0.0), Kind(1 - solved, 0.0, 0.0)]
        own, once_more = self.probe.q or 0.0, self.probe.now
        share = self.probe.solved or 0.0
        missed, rate = 1 - share, min(own / share, 1.0) if share else 0.0
        luck = (((once_more.q if once_more else None) or own) - own) / missed if missed else 0.0
        guide = (q - own) / missed if missed else 0.0
        return [Kind(share, rate, rate), Kind(missed, luck, guide)]

    def _samples(self, candidate: Candidate) -> int:
        """Samples of the guide that a failure gets at most."""
        if candidate.delta == 0:
            return self.config.auto.rescue.chunks * self.config.training.group_size
        return self.config.guidance.samples if self.config.auto.guided else 0

    def _drawn(self, candidate: Candidate) -> float:
        """Samples that are drawn besides those of a replay: by a guide; where the run stays, for places of batches."""
        kinds, n, most = self.kinds(candidate), self.config.training.group_size, self._samples(candidate)
        if candidate.delta == 0:
            rounds = self.config.auto.rescue.chunks
            extra = sum(k.share * (1 - k.own) ** n * until_right(k.guide, n, rounds) for k in kinds)
            return self.batches * (self.places * (n + extra) + self._dead() * until_right(kinds[-1].guide, n, rounds))
        asked = self.failures(candidate) if candidate.delta > 0 else self.probe.pool
        guidance = self.config.guidance
        rounds = guidance.samples // guidance.samples_per_round if guidance.stop_at_first_correct else 1
        drawn = asked * sum(k.share * until_right(k.guide, most / rounds, rounds) for k in kinds)
        return drawn if candidate.delta > 0 else drawn + self.batches * self.places * n

    def _dead(self) -> float:
        """Dead groups of a batch among those that are no failures come again, if they are as many as lately."""
        window = self.rows[-self.config.auto.control.trigger.window :]
        prompts = self.config.training.prompts_per_step
        return fmean([row.get("groups_all_wrong") or 0.0 for row in window] or [0.0]) * (1 - self.places / prompts)

    def _seconds_a_token(self) -> float:
        tokens = sum(row["tokens_generated"] or 0.0 for row in self.rows)
        return sum(row.get("seconds_generate") or 0.0 for row in self.rows) / tokens if tokens else 0.0


def until_right(chance: float, a_round: float, rounds: int) -> float:
    """Samples of a prompt in rounds until the first right one, where each is right with a chance."""
    return a_round * sum((1 - chance) ** (a_round * i) for i in range(rounds))
