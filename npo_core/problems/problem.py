"""What is asked, and what a verifier says of an answer to it."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


class Outcome(StrEnum):
    """What a verifier found. `TIMEOUT` and `CRASH` say nothing of the answer: the verifier did not get that far."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    TIMEOUT = "timeout"
    CRASH = "crash"

    @property
    def is_outage(self) -> bool:
        """Whether nobody could tell if the answer is right."""
        return self in (Outcome.TIMEOUT, Outcome.CRASH)


class Verdict(NamedTuple):
    """What became of one completion.

    Pass rates, the gate, guidance, probes and evaluation read `accuracy` alone; training is on `reward`.

    Example:
        Verdict(Outcome.CORRECT, accuracy=1.0, reward=0.85)  # right, but the format or the length cost it something
    """

    outcome: Outcome
    accuracy: float  # in [0, 1]; NaN after an outage of what finds it
    reward: float  # NaN after any outage
    fallback: bool = False  # the answer was marked nowhere; what was taken for it is a guess

    def may_guide(self, accept_fallback: bool = False) -> bool:
        """Whether the completion can be guidance: right, not by a guess, and with a reward that is known."""
        return self.correct is True and not math.isnan(self.reward) and (accept_fallback or not self.fallback)

    @property
    def correct(self) -> bool | None:
        """Whether the accuracy is full; None where an outage left it unknown."""
        return None if math.isnan(self.accuracy) else self.accuracy == 1.0


def graded(value: float) -> Verdict:
    """The verdict whose accuracy and reward are `value`."""
    return Verdict(Outcome.CORRECT if value == 1.0 else Outcome.WRONG, value, value)


def found(outcome: Outcome, fallback: bool = False) -> Verdict:
    """The verdict of a verifier that says no more than an outcome."""
    value = math.nan if outcome.is_outage else float(outcome is Outcome.CORRECT)
    return Verdict(outcome, value, value, fallback)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where an image is: a file, or a cell of a data set. `npo_core.problems.images.open_image` reads it.

    Example:
        ImageRef(digest="5f0c...", bytes=83120, file="/data/images/12.png")
        ImageRef(digest="5f0c...", bytes=83120, source='{"path": "data/train", ...}', row=12, column="image_1")
    """

    digest: str  # 32 hex digits, a hash of its bytes
    bytes: int  # how many
    height: int = 0  # pixels, here and below
    width: int = 0
    file: str | None = None
    source: str | None = None  # whose rows: the fields of a `config.Source` that open it, as JSON
    row: int | None = None  # counted from 0
    column: str | None = None
    place: int = 0  # which one, where the cell holds a list


@dataclass(frozen=True, slots=True)
class Problem:
    """One prompt with its answer.

    Example:
        Problem(id="9f2c...", prompt="7*3-2+9*4+1=", answer="3", difficulty=2)
    """

    id: str  # 16 hex digits, a hash of the prompt, the answer and the images
    prompt: str  # as the model sees it; special tokens that its tokenizer adds by itself are left out
    answer: str
    difficulty: int | str
    row: Mapping[str, Any] = field(default_factory=dict, hash=False)  # the data's further columns
    images: tuple[ImageRef, ...] = ()
    verifier: str = ""  # one of `problems.verifiers` by its name; empty: `problems.verifier`


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of a problem, to be judged."""

    problem: Problem
    text: str  # without the end-of-sequence token
    tokens: int  # with it
    finished: bool  # it ended by itself


@dataclass(frozen=True, slots=True)
class Reference:
    """An answer of the data, to be read once before anything is judged."""

    answer: str


Judge = Callable[[Sequence[Completion]], list[Verdict]]  # a verdict a completion, in order; of none: shows it can start


@dataclass(frozen=True)
class ProblemSet:
    """The problems of a run: disjoint training and held-out sets and the judge of both."""

    train: Sequence[Problem]
    held_out: Sequence[Problem]
    judge: Judge
    reward_names: tuple[str, ...] = ("accuracy",)  # and `reward`, where training is on more than accuracy
    report: dict[str, Any] | None = None  # of problems from data: see `npo_core.problems.data.part_report`
    benchmarks: Mapping[str, Sequence[Problem]] = field(default_factory=dict)  # further held-out sets by name

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when any training problem, or the order of them, changes."""
        digest = hashlib.sha256()
        for problem in self.train:
            digest.update(problem.id.encode())
        return digest.hexdigest()[:16]

    def rewards(self, verdict: Verdict) -> list[float]:
        """The verdict's values under `reward_names`."""
        return [getattr(verdict, name) for name in self.reward_names]


def problem_id(prompt: str, answer: str, images: Sequence[ImageRef] = ()) -> str:
    """The identity of a problem: 16 hex digits of a hash of its content."""
    return hashlib.sha256("\x1f".join([prompt, answer, *(i.digest for i in images)]).encode()).hexdigest()[:16]
