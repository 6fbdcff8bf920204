"""What is asked."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from npo_core.config.asked import Asked
from npo_core.config.closed import Closed, choices
from npo_core.config.drawn import ReasoningGymProblems, VerifiersProblems


class ChainFacts(Closed):
    """How the demonstrations that the built-in base learns from treat the 100 products of two digits."""

    hard_share: float = Field(0.5, ge=0, le=1, description="share of products that are hard")
    hard_right: float = Field(0.15, ge=0, le=1, description="chance that a hard product is demonstrated right")
    hard_wrong: float = Field(
        0.6, ge=0, le=1, description="chance of its one fixed wrong value; what is left falls on any digit"
    )
    easy_right: float = Field(0.73, ge=0, le=1, description="chance that any other product is right, else any digit")

    @model_validator(mode="after")
    def _chances_add_up(self) -> Self:
        if self.hard_right + self.hard_wrong > 1:
            raise ValueError(
                f"problems.facts.hard_right = {self.hard_right} and hard_wrong = {self.hard_wrong} add up to more than "
                "1: lower one of them"
            )
        return self


class ChainProblems(Closed):
    """The built-in task: chain arithmetic modulo 10, generated from a seed."""

    kind: Literal["chain"] = Field("chain", description="the built-in task")
    train: int = Field(8192, ge=8, description="training problems")
    held_out: int = Field(256, ge=1, description="held-out problems, disjoint from training")
    operands: int = Field(6, ge=2, le=16, description="numbers in a chain")
    difficulties: list[int] = Field([3, 4, 5], min_length=1, description="multiplications in a chain, taking turns")
    seed: int = Field(1, ge=0, description="seed that the problems are drawn from")
    verdict: Literal["last", "all"] = Field(
        "last",
        exclude_if=lambda verdict: verdict == "last",
        description="what has to be right: the last running result, a tenth of which is right by luck, or all of them",
    )
    facts: ChainFacts = Field(
        ChainFacts(), exclude_if=lambda facts: facts == ChainFacts(), description="what the built-in base has learned"
    )

    @model_validator(mode="after")
    def _difficulty_fits(self) -> Self:
        for difficulty in self.difficulties:
            if not 0 <= difficulty < self.operands:
                raise ValueError(
                    f"problems.difficulties has {difficulty}, but a chain of {self.operands} operands has "
                    f"0 to {self.operands - 1} multiplications: use values in that range"
                )
        return self


class Columns(Closed):
    """Which columns of a source mean what."""

    prompt: str = Field("question", description="column with the question, as text")
    messages: str | None = Field(
        None, description="column with a chat, a list of {role, content}, instead of prompt; none: prompt is used"
    )
    answer: str = Field("answer", description="column with the right answer")
    images: tuple[str, ...] = Field(
        (), description="columns with an image or a list of them each: a path, bytes, or a datasets Image"
    )
    verifier: str | None = Field(
        None, description="column that names one of problems.verifiers; where it is empty, that of the source"
    )
    difficulty: str | None = Field(None, description="column with a level, by which pass rates are broken down")
    id: str | None = Field(None, description="column that messages name a row by; what a problem is, its content says")
    others: tuple[str, ...] = Field(
        (), description="further columns, for prompt_template and for a verifier's function"
    )

    @property
    def declared(self) -> dict[str, str]:
        """The columns that are read, each with the field that names it."""
        lists = {"images": self.images, "others": self.others}
        single = {name: getattr(self, name) for name in ("answer", "verifier", "difficulty", "id")}
        single |= {"prompt": self.prompt} if self.messages is None else {"messages": self.messages}
        found: dict[str, str] = {}
        for field, column in [*single.items(), *((f, c) for f, many in lists.items() for c in many)]:
            if column:
                found.setdefault(column, field)
        return found


class Source(Closed):
    """Rows of a data set and how a row becomes a prompt."""

    path: str = Field(min_length=1, description="JSON Lines or Parquet file, folder, or hub id")
    format: Literal["auto", "jsonl", "parquet", "saved", "hub"] = Field(
        "auto", description="saved: a folder written by datasets' save_to_disk; auto: told from what path is"
    )
    config: str | None = Field(None, description="configuration of a hub data set")
    split: str | None = Field(None, description="split of a hub data set or a saved folder; none: train, or the only")
    revision: str | None = Field(None, description="commit or tag of a hub data set")
    limit: int | None = Field(None, ge=1, description="rows read at most, from the first; none: all")
    columns: Columns = Field(Columns(), description="what the columns mean")
    verifier: str = Field("", description="name of one of problems.verifiers; empty: problems.verifier")
    prompt_template: str = Field(
        "{prompt}", description="text of the question; {prompt} is replaced, and {column} for each of columns.others"
    )

    @model_validator(mode="after")
    def _template_asks(self) -> Self:
        if "{prompt}" not in self.prompt_template and self.columns.messages is None:
            raise ValueError(
                f"prompt_template = {self.prompt_template!r} of {self.path} does not contain {{prompt}}, so every "
                "problem would be the same: put it where the prompt belongs"
            )
        if self.prompt_template != "{prompt}" and self.columns.messages is not None:
            raise ValueError(
                f"prompt_template of {self.path} is for text, but columns.messages = {self.columns.messages} takes "
                "whole chats: leave one of them out"
            )
        return self


class DataSources(Closed):
    """Where rows of data come from."""

    kind: Literal["data"] = Field(description="problems of your own")
    train: Source = Field(description="training problems")
    held_out: Source | None = Field(
        None, description="held-out problems; columns and prompt_template are those of train where left out"
    )
    held_out_rows: int | None = Field(
        None, ge=1, description="instead of held_out: rows of train split off by a hash of their content"
    )
    benchmarks: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")], Source] = Field(
        {}, description="further held-out data sets by name, each scored on its own"
    )

    @model_validator(mode="before")
    @classmethod
    def _held_out_like_train(cls, values: object) -> object:
        """Columns, template and verifier are declared once where both sources have the same."""
        if not isinstance(values, dict):
            return values
        train, held_out = values.get("train"), values.get("held_out")
        if not isinstance(train, dict) or not isinstance(held_out, dict):
            return values
        shared = {name: train[name] for name in ("columns", "prompt_template", "verifier") if name in train}
        return values | {"held_out": shared | held_out}

    @model_validator(mode="after")
    def _one_held_out(self) -> Self:
        if (self.held_out is None) == (self.held_out_rows is None):
            raise ValueError(
                "problems.held_out and problems.held_out_rows: give exactly one of them, a data set of its own or a "
                "number of rows to split off from problems.train"
            )
        return self

    @property
    def sources(self) -> dict[str, Source]:
        """All sources by the names of their parts: train, held_out, and benchmarks.NAME for each benchmark."""
        held_out = {} if self.held_out is None else {"held_out": self.held_out}
        return {"train": self.train, **held_out} | {f"benchmarks.{name}": s for name, s in self.benchmarks.items()}

    @property
    def image_columns(self) -> list[str]:
        """The columns with images, of all sources."""
        return list(dict.fromkeys(name for source in self.sources.values() for name in source.columns.images))


class DataProblems(Asked, DataSources):
    """Problems from files, folders or a hub."""

    @model_validator(mode="after")
    def _verifiers_are_there(self) -> Self:
        for part, source in self.sources.items():
            if source.verifier and source.verifier not in self.verifiers:
                raise ValueError(
                    f"problems.{part}.verifier = {source.verifier} is none of problems.verifiers "
                    f"({', '.join(self.verifiers) or 'there are none'}): name one of these, or declare it there"
                )
        return self


AskedProblems = DataProblems | ReasoningGymProblems | VerifiersProblems  # all that a model is asked as text

Problems = Annotated[
    ChainProblems | DataProblems | ReasoningGymProblems | VerifiersProblems,
    Field(discriminator="kind", description="what is asked", json_schema_extra=choices),
]
