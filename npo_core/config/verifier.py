"""How an answer is verified: one kind, or a weighted sum of several of which one is the accuracy."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

import regex
from pydantic import Field, field_validator, model_validator

from npo_core.config.closed import Closed, choices

ACCURACY = "accuracy"  # the name of the part that pass rates and the gate read
# One thought with a letter or digit in it, then a box with something in it, whatever is around that.
THINK_AND_BOX = (
    r"\A\s*<think>(?=(?:(?!</?think>).)*?[\p{L}\p{N}])(?:(?!</?think>).)+</think>(?!.*</?think>)"
    r".*\\boxed\s*\{(?!(?:[\s~{}]|\\(?:[,;:! ]|text|mathrm|quad))*(?:\}|\Z)).+\}.*\Z"
)


def compiled(pattern: str, field: str) -> regex.Pattern:
    """A pattern of the configuration. Raises ValueError, a sentence, where it is none."""
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{field} = {pattern!r} is no regular expression: {error}") from None


def one_group(pattern: str, field: str) -> None:
    """Raises ValueError unless a pattern has exactly one group, the final answer."""
    if (groups := compiled(pattern, field).groups) != 1:
        raise ValueError(
            f"{field} = {pattern!r} has {groups} groups: exactly one, the final answer, is needed; "
            "write other parentheses as (?:...)"
        )


class ExactVerifier(Closed):
    """The final answer as text: what problems.answer_pattern finds last, in reference and completion alike."""

    kind: Literal["exact"] = Field("exact", description="the same text")


class NumericVerifier(Closed):
    """The final answer as a number: in a box, found by problems.answer_pattern, after "answer is", or all there is."""

    kind: Literal["numeric"] = Field("numeric", description="the same number")
    relative_tolerance: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the reference that it may be off; none: whole numbers and fractions are exact, decimals "
        "may be off by a millionth that rounding explains",
    )
    absolute_tolerance: float = Field(0.0, ge=0, description="what it may be off whatever the reference")
    fallback: Literal["last_number", "none"] = Field(
        "last_number", description="what counts where no answer is marked; guidance takes none of these by default"
    )


class ChoiceVerifier(Closed):
    """Multiple choice: the letter found by problems.answer_pattern, in a box, after "answer", or alone."""

    kind: Literal["choice"] = Field("choice", description="the same letter")
    letters: str = Field("ABCDEFGHIJ", pattern="^[A-Z]+$", description="the letters there are")


class InWorkers(Closed):
    """What may hang or crash runs in worker processes (execution.verifier_workers) that can be killed."""

    kind: str
    timeout: float = Field(
        5.0, gt=0, description="seconds an answer may take; then its worker is killed, and it is tried once more"
    )
    memory: float = Field(8.0, gt=0, description="GiB that a worker may allocate")


class MathVerifier(InWorkers):
    """The same mathematics: numbers, lists, intervals, sets, matrices; expressions are parsed by math-verify."""

    kind: Literal["math"] = Field("math", description="the same mathematics")
    fallback: Literal["last_formula", "none"] = Field(
        "last_formula", description="what counts where no answer is marked; guidance takes none of these by default"
    )


class FunctionVerifier(InWorkers):
    """A function of yours, sync or async: (prompt, completion, answer, **row) to a float, a bool or an Outcome."""

    kind: Literal["function"] = Field("function", description="a function of yours")
    path: str = Field(description="where it is imported from, package.module:name")

    @field_validator("path")
    @classmethod
    def _names_a_function(cls, path: str) -> str:
        module, _, name = path.partition(":")
        if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
            raise ValueError(f"a function's path is {path!r}: write it as package.module:name")
        return path


class TaskVerifier(InWorkers):
    """What the library that drew a problem says of the answer: of problems.kind reasoning-gym and verifiers alone."""

    kind: Literal["task"] = Field("task", description="the scorer of the problem's task")


class FormatVerifier(Closed):
    """1 where the completion has the format, else 0."""

    kind: Literal["format"] = Field("format", description="the form of the completion")
    pattern: str = Field(
        THINK_AND_BOX, description="regular expression that is searched for; a dot matches a line's end, too"
    )

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        compiled(pattern, "a format's pattern")
        return pattern


class LengthVerifier(Closed):
    """Soft overlong penalty (DAPO): 0 up to max_tokens - buffer, falls evenly to -1 at max_tokens, and stays there."""

    kind: Literal["length"] = Field("length", description="a penalty for length")
    max_tokens: int = Field(ge=1, description="tokens of a completion from which the penalty is full")
    buffer: int = Field(ge=1, description="tokens before max_tokens over which it grows")

    @model_validator(mode="after")
    def _buffer_fits(self) -> Self:
        if self.buffer > self.max_tokens:
            raise ValueError(
                f"a length's buffer = {self.buffer} is more than its max_tokens = {self.max_tokens}, so that even an "
                "empty completion is penalized: make the buffer smaller"
            )
        return self


WorkerVerifier = MathVerifier | FunctionVerifier | TaskVerifier  # all that are `InWorkers`
SoundVerifier = Annotated[
    ExactVerifier | NumericVerifier | ChoiceVerifier | MathVerifier | FormatVerifier | FunctionVerifier | TaskVerifier,
    Field(discriminator="kind", description="what is verified", json_schema_extra=choices),
]


class AllOfVerifier(Closed):
    """Right only if all parts say so, which are asked in their order; the accuracy is the lowest of theirs."""

    kind: Literal["all_of"] = Field("all_of", description="right if all say so")
    parts: list[SoundVerifier] = Field(min_length=2, description="the verifiers that must agree, the quickest first")


AnyButWeighted = (
    ExactVerifier
    | NumericVerifier
    | ChoiceVerifier
    | MathVerifier
    | FormatVerifier
    | FunctionVerifier
    | TaskVerifier
    | AllOfVerifier
)
OpinionVerifier = Annotated[
    AnyButWeighted,
    Field(discriminator="kind", description="when an answer is right", json_schema_extra=choices),
]
LeafVerifier = SoundVerifier | LengthVerifier
PartVerifier = Annotated[
    ExactVerifier
    | NumericVerifier
    | ChoiceVerifier
    | MathVerifier
    | FormatVerifier
    | LengthVerifier
    | FunctionVerifier
    | TaskVerifier
    | AllOfVerifier,
    Field(discriminator="kind", description="what is verified", json_schema_extra=choices),
]


class Part(Closed):
    """One summand of the reward."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description=f"{ACCURACY} for the one that pass rates read")
    weight: float = Field(ge=-100, le=100, description="what it counts in the reward")
    verifier: PartVerifier


class WeightedVerifier(Closed):
    """A weighted sum: the reward is that of all parts, the accuracy that of the part named accuracy."""

    kind: Literal["weighted"] = Field("weighted", description="a weighted sum")
    parts: list[Part] = Field(min_length=1, description="the summands, each with name, weight and verifier")

    @model_validator(mode="after")
    def _one_is_the_accuracy(self) -> Self:
        names = [part.name for part in self.parts]
        if names.count(ACCURACY) != 1:
            raise ValueError(
                f"problems.verifier.parts are named {', '.join(names)}: exactly one must be named {ACCURACY}, the "
                "one that pass rates, gate and guidance read"
            )
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"problems.verifier.parts has {repeated} twice: give every part a name of its own")
        if isinstance(self.accuracy.verifier, LengthVerifier):
            raise ValueError(
                "problems.verifier.parts: a length says nothing of the accuracy: name another part accuracy"
            )
        return self

    @property
    def accuracy(self) -> Part:
        """The part that pass rates and the gate read."""
        return next(part for part in self.parts if part.name == ACCURACY)


Verifier = Annotated[
    AnyButWeighted | WeightedVerifier,
    Field(discriminator="kind", description="when an answer is right", json_schema_extra=choices),
]


def leaves(verifier: Verifier | PartVerifier) -> Iterator[LeafVerifier]:
    """The verifiers of all parts, or the one there is."""
    if isinstance(verifier, WeightedVerifier):
        for part in verifier.parts:
            yield from leaves(part.verifier)
    else:
        yield from verifier.parts if isinstance(verifier, AllOfVerifier) else [verifier]


def paper_verifier(max_tokens: int = 4096, buffer: int = 1024) -> WeightedVerifier:
    """The paper's reward: 0.9 accuracy + 0.1 format, with the soft overlong penalty; its buffer is ours."""
    return WeightedVerifier(
        parts=[
            Part(name=ACCURACY, weight=0.9, verifier=MathVerifier()),
            Part(name="format", weight=0.1, verifier=FormatVerifier()),
            Part(name="overlong", weight=1.0, verifier=LengthVerifier(max_tokens=max_tokens, buffer=buffer)),
        ]
    )
