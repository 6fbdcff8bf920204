"""The built-in task: chain arithmetic modulo 10.

A prompt such as `7*3-2+9*4+1=` is worked out from left to right, every result modulo 10, and the completion lists
the running results: `19823`. The last digit is the answer. Difficulty is the number of multiplications.

Demonstrations for the base model (`Demonstrator`) get `+` and `-` right and are unreliable about products, so that the
base starts with many groups that are all wrong, and RL has something to find.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from npo_core.config import ChainFacts
from npo_core.problems.problem import Completion, Outcome, Problem, ProblemSet, Verdict, found, problem_id

OPERATORS = "+-*"


def apply(operator: str, left: int, right: int) -> int:
    """One step of the chain, modulo 10."""
    if operator == "+":
        return (left + right) % 10
    return (left - right if operator == "-" else left * right) % 10


def parse(prompt: str) -> tuple[list[int], str]:
    """Split `7*3-2=` into its operands [7, 3, 2] and operators `*-`."""
    return [int(digit) for digit in prompt[0:-1:2]], prompt[1:-1:2]


def solve(prompt: str) -> str:
    """The running results of a prompt, one digit per operator, left to right."""
    operands, operators = parse(prompt)
    results, value = [], operands[0]
    for operator, operand in zip(operators, operands[1:], strict=True):
        value = apply(operator, value, operand)
        results.append(str(value))
    return "".join(results)


def verify(completion: str, answer: str, whole: bool = False) -> Outcome:
    """Correct if the completion is digits alone, as many as the worked answer has, and the last one agrees, or all."""
    if len(completion) != len(answer) or not (completion.isascii() and completion.isdigit()):
        return Outcome.UNPARSABLE
    agrees = completion == answer if whole else completion[-1] == answer[-1]
    return Outcome.CORRECT if agrees else Outcome.WRONG


def judge(completions: Sequence[Completion], whole: bool = False) -> list[Verdict]:
    """A verdict a completion; one that was cut off is wrong. `whole`: every running result has to be right."""
    return [found(verify(c.text, c.problem.answer, whole) if c.finished else Outcome.WRONG) for c in completions]


def judge_whole(completions: Sequence[Completion]) -> list[Verdict]:
    return judge(completions, whole=True)


def make_prompt(rng: random.Random, operands: int, multiplications: int) -> str:
    """A prompt with exactly so many multiplications at random places."""
    operators = ["*"] * multiplications + rng.choices("+-", k=operands - 1 - multiplications)
    rng.shuffle(operators)
    digits = [str(rng.randrange(10)) for _ in range(operands)]
    return "".join(a + b for a, b in zip(digits, [*operators, "="], strict=True))


@lru_cache(maxsize=1)
def make_problems(
    *, seed: int, train: int, held_out: int, operands: int, difficulties: tuple[int, ...], whole: bool = False
) -> ProblemSet:
    """Draw disjoint training and held-out sets; difficulties take turns, so that every batch is graded alike.

    Asked again for the same, it returns the same object: a parent that forks stages draws once for all of them.

    Raises:
        ValueError: if so many different prompts do not turn up (too few operands for the sizes asked).
    """
    rng = random.Random(f"chain-{seed}")
    seen: set[str] = set()
    problems: list[Problem] = []
    for index in range(train + held_out):
        difficulty = difficulties[index % len(difficulties)]
        prompt = next((p for p in (make_prompt(rng, operands, difficulty) for _ in range(1000)) if p not in seen), None)
        if prompt is None:
            raise ValueError(f"{train + held_out} different prompts with {operands} operands cannot be drawn")
        seen.add(prompt)
        answer = solve(prompt)
        problems.append(Problem(problem_id(prompt, answer), prompt, answer, difficulty))
    return ProblemSet(problems[:train], problems[train:], judge_whole if whole else judge)


@dataclass(frozen=True)
class Demonstrator:
    """Writes the imperfect demonstrations that the base model learns from; its errors are fixed by the seed."""

    seed: int
    facts: ChainFacts = ChainFacts()

    def wrong_values(self) -> dict[tuple[int, int], int]:
        """The digit pairs whose product is demonstrated wrongly, each with its one wrong value."""
        rng = random.Random(f"facts-{self.seed}")
        pairs = [(a, b) for a in range(10) for b in range(10)]
        hard = rng.sample(pairs, int(len(pairs) * self.facts.hard_share))
        return {(a, b): (a * b + rng.randrange(1, 10)) % 10 for a, b in sorted(hard)}

    def demonstrate(self, prompt: str, rng: random.Random, wrong: dict[tuple[int, int], int]) -> str:
        """Running results of one prompt, errors carried on to the end as a person would."""
        operands, operators = parse(prompt)
        results, value = [], operands[0]
        for operator, operand in zip(operators, operands[1:], strict=True):
            value = self._product(value, operand, rng, wrong) if operator == "*" else apply(operator, value, operand)
            results.append(str(value))
        return "".join(results)

    def _product(self, left: int, right: int, rng: random.Random, wrong: dict[tuple[int, int], int]) -> int:
        draw, facts = rng.random(), self.facts
        fixed = wrong.get((left, right))
        if fixed is None:
            return left * right % 10 if draw < facts.easy_right else rng.randrange(10)
        if draw < facts.hard_wrong:
            return fixed
        return left * right % 10 if draw < facts.hard_wrong + facts.hard_right else rng.randrange(10)
