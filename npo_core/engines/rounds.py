"""Rounds of samples: a prompt has as many again while whoever judges them wants more."""

from collections.abc import Callable, Sequence
from typing import Protocol

from npo_core.engines.base import Engine, Generated
from npo_core.problems import Problem
from npo_core.seeds import derive_seed

Answered = list[tuple[Problem, list[Generated]]]  # problems whose rounds are over, with the samples of these
# Told problems as their rounds end; what it gives says, when called, which of them are asked again. It may wait then.
Told = Callable[[Answered], Callable[[], list[Problem]]]


class GuideEngine(Engine, Protocol):
    """An engine that guidance is sampled with."""

    def generate_rounds(
        self, problems: Sequence[Problem], *, samples: int, most: int, max_tokens: int, seed: int, told: Told
    ) -> None:
        """Rounds of `samples` of each problem, `most` samples of one at most.

        Which samples are drawn follows from the seed and from what `told` wants, not from how long it takes.
        """
        ...


class InRounds:
    """`generate_rounds` a round of all problems at a time, where no rows wait that could fill places."""

    def generate_rounds(
        self: Engine, problems: Sequence[Problem], *, samples: int, most: int, max_tokens: int, seed: int, told: Told
    ) -> None:
        """See `GuideEngine`."""
        for start in range(0, most, samples):
            width = min(samples, most - start)
            answers = self.generate(problems, samples=width, max_tokens=max_tokens, seed=derive_seed(seed, start))
            problems = told(list(zip(problems, answers, strict=True)))()
            if not problems:
                break


class Rounds:
    """Rounds as rows of one sequence, whose places stay filled: one that begins stands behind all rows before it.

    A row's number says problem and sample, so that a sample is the same whichever rows came before it. Rounds begin in
    the order in which problems ended. Whoever judges is told of `wave` answers at a time: each call may take its time,
    and of a few answers one that cannot be judged is a large share.
    """

    def __init__(self, problems: Sequence[Problem], samples: int, most: int, told: Told, wave: int):
        self.problems, self.samples, self.most, self.told, self.wave = problems, samples, most, told, wave
        self.number = {problem.id: number for number, problem in enumerate(problems)}
        self.rows: list[tuple[int, int]] = []  # problem and sample of each, by their numbers
        self.answers: list[dict[int, Generated]] = [{} for _ in problems]  # by sample
        self.over: Answered = []  # rounds that nobody was told of yet
        self.again: list[Callable[[], list[Problem]]] = []  # of those told of, in order

    def begin(self, problems: Sequence[Problem]) -> list[tuple[str, int]]:
        """The rows of a round of each problem: the problem's id, and the row's number."""
        begun = []
        for number in (self.number[problem.id] for problem in problems):
            drawn = len(self.answers[number])
            begun += [(number, sample) for sample in range(drawn, min(drawn + self.samples, self.most))]
        self.rows += begun
        return [(self.problems[number].id, number * self.most + sample) for number, sample in begun]

    def ended(self, places: Sequence[int], completions: Sequence[Generated]) -> None:
        """Take the completions of rows, by their places, and tell of the rounds that are over with them."""
        for (number, sample), completion in zip((self.rows[place] for place in places), completions, strict=True):
            answers = self.answers[number]
            answers[sample] = completion
            if len(answers) % self.samples == 0 or len(answers) == self.most:
                first = (len(answers) - 1) // self.samples * self.samples
                self.over.append((self.problems[number], [answers[i] for i in range(first, len(answers))]))
        if sum(len(answers) for _, answers in self.over) >= self.wave:
            self.tell()

    def tell(self) -> None:
        """Tell of the rounds that are over."""
        self.again.append(self.told(self.over))
        self.over = []

    def more(self, running: int) -> list[tuple[str, int]]:
        """The rows of rounds that begin now, beside `running` others in the model."""
        if self.over and not running:
            self.tell()
        problems = [problem for ask in self.again for problem in ask()]
        self.again.clear()
        return self.begin(problems)
