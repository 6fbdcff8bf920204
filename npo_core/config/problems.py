"""What is asked."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from npo_core.config.closed import Closed, choices
from npo_core.config.verifier import ExactVerifier, Verifier


class ChainProblems(Closed):
    """The built-in task: chain arithmetic modulo 10, generated from a seed."""

    kind: Literal["chain"] = Field("chain", description="the built-in task")
    train: int = Field(8192, ge=8, description="training problems")
    held_out: int = Field(256, ge=1, description="held-out problems, disjoint from training")
    operands: int = Field(6, ge=2, le=16, description="numbers in a chain")
    difficulties: list[int] = Field([3, 4, 5], min_length=1, description="multiplications in a chain, taking turns")
    seed: int = Field(1, ge=0, description="seed that the problems are drawn from")

    @model_validator(mode="after")
    def _difficulty_fits(self) -> Self:
        for difficulty in self.difficulties:
            if not 0 <= difficulty < self.operands:
                raise ValueError(
                    f"problems.difficulties has {difficulty}, but a chain of {self.operands} operands has "
                    f"0 to {self.operands - 1} multiplications: use values in that range"
                )
        return self


class JsonlProblems(Closed):
    """Problems from JSON Lines with a final answer that is compared exactly."""

    kind: Literal["jsonl"] = Field(description="problems of your own")
    train_file: Path = Field(description="JSON Lines file with training problems")
    held_out_file: Path = Field(description="JSON Lines file with held-out problems")
    prompt_field: str = Field("question", description="key of the prompt")
    answer_field: str = Field("answer", description="key of the answer")
    answer_pattern: str = Field(
        r"####\s*(.+)$",
        description="regular expression whose group 1 is the final answer; "
        "the last match counts, in reference and completion alike",
    )
    verifier: Verifier = ExactVerifier()
    prompt_template: str = Field("{prompt}", description="text given to the model; {prompt} is replaced")

    @model_validator(mode="after")
    def _patterns_work(self) -> Self:
        if "{prompt}" not in self.prompt_template:
            raise ValueError(
                f"problems.prompt_template = {self.prompt_template!r} does not contain {{prompt}}, so every "
                "problem would be the same: put it where the prompt belongs"
            )
        try:
            groups = re.compile(self.answer_pattern).groups
        except re.error as error:
            raise ValueError(
                f"problems.answer_pattern = {self.answer_pattern!r} is no regular expression: {error}"
            ) from None
        if groups != 1:
            raise ValueError(
                f"problems.answer_pattern = {self.answer_pattern!r} has {groups} groups: exactly one, the final "
                "answer, is needed; write other parentheses as (?:...)"
            )
        return self


Problems = Annotated[
    ChainProblems | JsonlProblems,
    Field(discriminator="kind", description="what is asked", json_schema_extra=choices),
]
