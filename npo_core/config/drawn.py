"""Problems that a library draws and scores: tasks of Reasoning Gym, tasksets of `verifiers`."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from npo_core.config.asked import Asked
from npo_core.config.closed import Closed
from npo_core.config.verifier import TaskVerifier, Verifier


class GymTask(Closed):
    """A task of Reasoning Gym."""

    name: str = Field(min_length=1, description="name in the library, for example chain_sum")
    levels: list[int] = Field(
        [], description="levels of the library's curriculum of the task, taking turns; none: the task's own settings"
    )
    config: dict[str, Any] = Field({}, description="settings of the task, in place of those of a level")

    @model_validator(mode="after")
    def _draws_alone(self) -> Self:
        if fixed := {"seed", "size"} & set(self.config):
            raise ValueError(
                f"problems.tasks: config of {self.name} has {', '.join(sorted(fixed))}, which problems.seed, train and "
                "held_out decide: leave it out"
            )
        return self


class Gym(Closed):
    """Which problems Reasoning Gym draws."""

    kind: Literal["reasoning-gym"] = Field(description="tasks of Reasoning Gym")
    tasks: list[GymTask] = Field(min_length=1, description="what is drawn from, taking turns")
    train: int = Field(8192, ge=1, description="training problems")
    held_out: int = Field(256, ge=1, description="held-out problems, drawn first, so that train changes none of them")
    seed: int = Field(1, ge=0, description="seed that the problems are drawn from")


class Taskset(Closed):
    """Which problems a taskset of the library `verifiers` gives."""

    kind: Literal["verifiers"] = Field(description="a single-turn taskset of Prime Intellect's verifiers")
    taskset: str = Field(min_length=1, description="id of an installed taskset, such as gsm8k-v1")
    config: dict[str, Any] = Field({}, description="settings of the taskset")
    held_out_config: dict[str, Any] | None = Field(
        None, description="settings for held-out problems, such as another split; none: the first tasks are held out"
    )
    train: int = Field(8192, ge=1, description="training problems, at most")
    held_out: int = Field(256, ge=1, description="held-out problems, at most where they have settings of their own")


class Drawn(Asked):
    """What problems of both libraries are asked by."""

    verifier: Verifier = TaskVerifier()

    @property
    def sources(self) -> dict[str, Any]:
        """None: no rows of these problems are anywhere before they are drawn."""
        return {}

    @property
    def image_columns(self) -> list[str]:
        """None: these problems are text."""
        return []


class ReasoningGymProblems(Drawn, Gym):
    """Problems that Reasoning Gym draws and scores."""

    answer_pattern: str = Field(
        r"(?s)<answer>(.*?)</answer>", description="regular expression whose group 1, at its last match, is the answer"
    )
    system_prompt: str = Field(
        "Reason step by step, then give the final answer alone between <answer> and </answer>.",
        description="said before every prompt; empty: nothing",
    )


class VerifiersProblems(Drawn, Taskset):
    """Problems of a taskset, scored by its own rewards."""
