"""Pass rates of a policy on held-out problems, with intervals."""

import math
from collections import defaultdict
from collections.abc import Sequence

from npo_core.engines import Engine
from npo_core.errors import VerifierError
from npo_core.evaluation.score import HeldOutScore, Score
from npo_core.problems import Completion, Judge, Outcome, Problem, ProblemSet, Verdict


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is correct (Chen et al. 2021, arXiv 2107.03374, eq. 1)."""
    if samples - correct < k:
        return 1.0
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


Samples = list[tuple[Completion, Verdict]]


def evaluate(
    engine: Engine,
    problems: ProblemSet,
    *,
    benchmarks: bool = True,
    kept: dict[str, Samples] | None = None,
    **sampling: int,
) -> HeldOutScore:
    """The score on the held-out problems and, under `benchmarks`, on each further data set; `sampling`: as of `score`.

    Every data set is sampled on its own, so that its score does not depend on which others are asked.

    Args:
        kept: takes the answers of each data set by its name, those of the held-out problems by an empty one.
    """
    further = problems.benchmarks if benchmarks else {}
    held_out, *others = (
        score(engine, asked, problems.judge, kept=None if kept is None else kept.setdefault(name, []), **sampling)
        for name, asked in {"": problems.held_out, **further}.items()
    )
    return HeldOutScore(**held_out.model_dump(), benchmarks=dict(zip(further, others, strict=True)))


def score(
    engine: Engine,
    problems: Sequence[Problem],
    judge: Judge,
    *,
    samples: int,
    max_tokens: int,
    seed: int,
    kept: Samples | None = None,
) -> Score:
    """Sample every problem of a data set and verify; `kept` takes every answer, `samples` of each problem in turn.

    Raises:
        VerifierError: no answer at all got a verdict.
    """
    answers = engine.generate(problems, samples=samples, max_tokens=max_tokens, seed=seed)
    rows = [
        Completion(problem, c.text, len(c.token_ids), c.finished)
        for problem, given in zip(problems, answers, strict=True)
        for c in given
    ]
    verdicts = judge(rows)
    if kept is not None:
        kept += zip(rows, verdicts, strict=True)
    known = [
        [v.correct for v in verdicts[i : i + samples] if v.correct is not None]
        for i in range(0, len(verdicts), samples)
    ]
    graded = defaultdict(list)
    for problem, right in zip(problems, known, strict=True):
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
        by_difficulty_error={level: standard_error(values) for level, values in sorted(graded.items())},
        by_difficulty_problems={level: len(values) for level, values in sorted(graded.items())},
        pass_at_k={k: mean(values) for k, values in at_k.items()},
        pass_at_k_error={k: standard_error(values) for k, values in at_k.items()},
        problems=len(rates),
        samples=samples,
        tokens=sum(len(c.token_ids) for completions in answers for c in completions),
        unfinished=sum(not c.finished for completions in answers for c in completions),
        unparsable=sum(v.outcome is Outcome.UNPARSABLE for v in verdicts),
        unverified=sum(v.correct is None for v in verdicts),
    )


def estimates(known: list[list[bool]], samples: int) -> dict[int, list[float]]:
    """pass@k by k, of each problem that has at least k samples with a verdict."""
    enough = {k: [right for right in known if len(right) >= k] for k in range(1, samples + 1)}
    return {k: [pass_at_k(len(r), sum(r), k) for r in rights] for k, rights in enough.items() if rights}


def mean(values: list[float]) -> float:
    """The mean of at least one value."""
    return sum(values) / len(values)


def standard_error(values: list[float]) -> float:
    """Of the mean; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1) / len(values))
