"""Pass rates of a policy on held-out problems, with intervals."""

import math
from collections import defaultdict
from dataclasses import asdict, dataclass

from npo_core.engines import Engine
from npo_core.errors import VerifierError
from npo_core.problems import Completion, ProblemSet


@dataclass(frozen=True)
class Score:
    """pass@1 at temperature 1, estimated from several samples a problem."""

    pass_rate: float  # mean over problems of the share of correct samples
    standard_error: float  # of that mean, over problems
    by_difficulty: dict[int | str, float]
    pass_at_k: dict[int, float]  # unbiased estimate for k = 1 .. samples
    pass_at_k_error: dict[int, float]  # standard error of each, over problems
    problems: int
    samples: int
    tokens: int  # generated
    unfinished: int  # completions that did not end by themselves
    unverified: int  # completions whose verification timed out or crashed; they count nowhere

    def as_dict(self) -> dict:
        record = asdict(self)
        for name in ("by_difficulty", "pass_at_k", "pass_at_k_error"):
            record[name] = {str(key): value for key, value in record[name].items()}
        return record


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is correct (Chen et al. 2021, arXiv 2107.03374, eq. 1)."""
    if samples - correct < k:
        return 1.0
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def score_problems(engine: Engine, problems: ProblemSet, *, samples: int, max_tokens: int, seed: int) -> Score:
    """Sample every held-out problem and verify.

    Raises:
        VerifierError: no answer at all got a verdict.
    """
    answers = engine.generate(problems.held_out, samples=samples, max_tokens=max_tokens, seed=seed)
    rows = [(problem, c) for problem, given in zip(problems.held_out, answers, strict=True) for c in given]
    verdicts = problems.judge([Completion(p, c.text, len(c.token_ids), c.finished) for p, c in rows])
    known = [
        [v.correct for v in verdicts[i : i + samples] if v.correct is not None]
        for i in range(0, len(verdicts), samples)
    ]
    graded = defaultdict(list)
    for problem, right in zip(problems.held_out, known, strict=True):
        if right:
            graded[problem.difficulty].append(sum(right) / len(right))
    rates = [sum(right) / len(right) for right in known if right]
    at_k = estimates(known, samples)
    if not rates:
        raise VerifierError(
            f"None of the {len(verdicts)} held-out answers has a verdict: see the log for what the verifier said."
        )
    return Score(
        pass_rate=mean(rates),
        standard_error=standard_error(rates),
        by_difficulty={level: mean(values) for level, values in sorted(graded.items())},
        pass_at_k={k: mean(values) for k, values in at_k.items()},
        pass_at_k_error={k: standard_error(values) for k, values in at_k.items()},
        problems=len(rates),
        samples=samples,
        tokens=sum(len(c.token_ids) for completions in answers for c in completions),
        unfinished=sum(not c.finished for completions in answers for c in completions),
        unverified=sum(v.correct is None for v in verdicts),
    )


def estimates(known: list[list[bool]], samples: int) -> dict[int, list[float]]:
    """pass@k by k, of each problem that has at least k samples with a verdict."""
    enough = {k: [right for right in known if len(right) >= k] for k in range(1, samples + 1)}
    return {k: [pass_at_k(len(r), sum(r), k) for r in rights] for k, rights in enough.items() if rights}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def standard_error(values: list[float]) -> float:
    """Of the mean; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1) / len(values))
