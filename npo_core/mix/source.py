"""The protocol of a source of trajectories, and what it is told of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from npo_core.guidance.trajectory import Trajectory


class Group(NamedTuple):
    """One prompt of a generation batch, as every process knows it."""

    prompt_id: str
    pass_rate: float  # on-policy, over all n samples; NaN where no verdict is known
    correct: Sequence[Trajectory] = ()  # its right completions that may be injected, in the order of the samples


@dataclass
class Batch:
    """A generation batch after its verdicts, and what a source may ask of the trainer.

    step         optimizer update that trains on it
    groups       in the order of the batch
    group_size   n, completions a prompt
    draw         n more completions of each of these prompts by the current policy, verified: the groups they make. All
                 processes have to ask for the same.
    seed_of      a seed from parts, for choices that are the same in every replay
    drawn        samples and tokens that `draw` gave, and what else a source counts, by name
    """

    step: int
    groups: Sequence[Group]
    group_size: int
    draw: Callable[[Sequence[str]], Sequence[Group]]
    seed_of: Callable[..., int]
    counts: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, value: float) -> None:
        self.counts[name] = self.counts.get(name, 0.0) + value


class Source(Protocol):
    """Hands out verified-correct trajectories for prompts.

    What it learns from batches is its state, which is kept in every snapshot: a replay finds what the original found.
    """

    name: str

    def find(self, wanted: Sequence[str], batch: Batch) -> dict[str, Sequence[Trajectory]]:
        """Trajectories, best first, for some of the prompts whose group takes one."""
        ...

    def learn(self, batch: Batch) -> None:
        """Take in a batch after everything was found for it."""
        ...

    def state(self) -> Any:
        """What JSON can hold; None where there is nothing to keep."""
        ...

    def restore(self, state: Any) -> None: ...


class Stateless:
    """A source or a source of prompts that learns nothing."""

    def learn(self, batch: Batch) -> None: ...

    def state(self) -> None:
        return None

    def restore(self, state: None) -> None: ...
