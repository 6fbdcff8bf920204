"""Judges: in this process, in workers, or a weighted sum of such; of a batch at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from npo_core.config import Execution
from npo_core.config.verifier import AllOfVerifier, InWorkers, LeafVerifier, PartVerifier, Verifier, WeightedVerifier
from npo_core.problems.checks import Check, Unreadable, make_check
from npo_core.problems.pool import Pool, stop_outages
from npo_core.problems.problem import Completion, Judge, Outcome, Problem, Verdict, found


def make_judge(verifier: Verifier, answer_pattern: str, execution: Execution, example: Problem | None = None) -> Judge:
    """The judge of a run; `example` is a row that a function of one's own must be callable with."""

    def part(verifier: PartVerifier, accuracy: bool) -> Judge:
        if isinstance(verifier, AllOfVerifier):
            return AllOf([part(one, True) for one in verifier.parts])
        if isinstance(verifier, InWorkers):
            return Pool(
                verifier,
                answer_pattern,
                workers=execution.verifier_workers,
                max_outages=execution.max_outages,
                accuracy=accuracy,
                example=example,
            )
        return InProcess(verifier, make_check(verifier, answer_pattern, accuracy=accuracy), execution.max_outages)

    if not isinstance(verifier, WeightedVerifier):
        return OfFinished(part(verifier, True))
    return Weighted(
        OfFinished(part(verifier.accuracy.verifier, True)),
        verifier.accuracy.weight,
        [(p.weight, part(p.verifier, False)) for p in verifier.parts if p is not verifier.accuracy],
    )


def begin(judge: Judge, completions: Sequence[Completion]) -> bool:
    """Have a judge's workers begin with completions of the batch that it is asked next, while others are written.

    Verdicts are those of the whole batch at once. What is judged in this process waits until it is asked.

    Returns:
        Whether the judge has workers that can begin; ask with no completions to know it beforehand.
    """
    parts: list[tuple[Judge, Sequence[Completion]]]
    match judge:
        case Pool():
            if completions:
                judge.begin(completions)
            return True
        case OfFinished():
            return begin(judge.judge, [one for one in completions if one.finished])
        case AllOf():
            return begin(judge.judges[0], completions)  # what the others are asked depends on its verdicts
        case ByName():
            parts = [
                (one, [c for c in completions if c.problem.verifier == name]) for name, one in judge.judges.items()
            ]
        case Weighted():
            parts = [(one, completions) for one in (judge.accuracy, *(other for _, other in judge.others))]
        case _:
            return False
    return any([begin(one, own) for one, own in parts])


@dataclass(frozen=True)
class InProcess:
    """Judges where it is called: for checks that cannot hang or crash."""

    verifier: LeafVerifier
    check: Check
    max_outages: float

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict]:
        verdicts, outages = [], 0
        for completion in completions:
            try:
                verdicts.append(self.check(completion))
            except (TimeoutError, Unreadable) as error:
                late = isinstance(error, TimeoutError)
                verdicts.append(found(Outcome.TIMEOUT if late else Outcome.CRASH))
                outages += 1
                why = "its pattern takes too long" if late else str(error)
                stop_outages(outages, len(completions), self.max_outages, self.verifier, why)
        return verdicts


@dataclass(frozen=True)
class AllOf:
    """Right only if all judges say so; each is asked of what those before it did not find wrong."""

    judges: list[Judge]

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict]:
        verdicts = list(self.judges[0](completions))
        for judge in self.judges[1:]:
            still = [i for i, verdict in enumerate(verdicts) if verdict.correct is not False]
            for i, verdict in zip(still, judge([completions[i] for i in still]), strict=True):
                verdicts[i] = lowest(verdicts[i], verdict)
        return verdicts


def lowest(first: Verdict, second: Verdict) -> Verdict:
    """Of two verdicts the one that is not right, else the unknown one; a fallback of either is one of both."""
    worst = first if first.correct is False or (first.correct is None and second.correct is not False) else second
    return worst._replace(fallback=first.fallback or second.fallback)


@dataclass(frozen=True)
class ByName:
    """Gives every completion to the judge that its problem names."""

    judges: dict[str, Judge]

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict]:
        mine = {name: [c for c in completions if c.problem.verifier == name] for name in self.judges}
        asked = {name: judge for name, judge in self.judges.items() if mine[name] or not completions}
        verdicts = {name: iter(judge(mine[name])) for name, judge in asked.items()}
        return [next(verdicts[completion.problem.verifier]) for completion in completions]


@dataclass(frozen=True)
class OfFinished:
    """Judges what ended by itself; a completion that was cut off is wrong, whatever it says."""

    judge: Judge

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict]:
        verdicts = iter(self.judge([completion for completion in completions if completion.finished]))
        return [next(verdicts) if completion.finished else found(Outcome.WRONG) for completion in completions]


@dataclass(frozen=True)
class Weighted:
    """The accuracy of one judge, and as reward the weighted sum over it and all others."""

    accuracy: Judge
    weight: float
    others: list[tuple[float, Judge]]

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict]:
        right = self.accuracy(completions)
        parts = [(weight, judge(completions)) for weight, judge in self.others]
        return [self._sum(verdict, [(w, part[i]) for w, part in parts]) for i, verdict in enumerate(right)]

    def _sum(self, right: Verdict, parts: list[tuple[float, Verdict]]) -> Verdict:
        reward = self.weight * right.reward + sum(weight * verdict.reward for weight, verdict in parts)
        outages = (verdict.outcome for _, verdict in parts if verdict.outcome.is_outage)
        outcome = right.outcome if right.outcome.is_outage else next(outages, right.outcome)
        return Verdict(outcome, right.accuracy, reward, right.fallback)
