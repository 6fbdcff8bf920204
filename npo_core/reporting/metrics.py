"""The metrics of every optimizer update on some stretches, column by column, and sums over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from npo_core.timeline import Store, Stretch
from npo_core.timeline.segments import STEP_SCHEMA, read_steps

Column = list[float | None]


@dataclass(frozen=True)
class Metrics:
    """One entry an update in each column of `STEP_SCHEMA`; None where a figure does not exist.

    Example:
        Metrics({"step": [1, 2], "pass_rate": [0.11, 0.16], "guide_kl": [0.4, None], ...})
    """

    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.columns["step"])

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    @property
    def tokens(self) -> int:
        """Tokens that the policy generated."""
        return int(sum(value or 0 for value in self["tokens_generated"]))

    def until(self, step: int) -> "Metrics":
        """The updates up to and including `step`."""
        return self.between(-1, step)

    def between(self, t0: int, t1: int) -> "Metrics":
        """The updates in (t0, t1]."""
        wanted = [t0 < step <= t1 for step in self["step"]]
        return Metrics({name: list(compress(column, wanted)) for name, column in self.columns.items()})

    def mean(self, name: str) -> float | None:
        """The mean over the updates that have the figure; None where none has."""
        values = [value for value in self[name] if value is not None]
        return sum(values) / len(values) if values else None


def read_metrics(store: Store, stretches: Sequence[Stretch]) -> Metrics:
    """The metrics of all stretches, in their order. Raises DamagedError where a table cannot be read."""
    columns: dict[str, Column] = {name: [] for name in STEP_SCHEMA.names}
    for stretch in stretches:
        table = Metrics(read_steps(store, stretch.segment).to_pydict()).between(stretch.t0, stretch.t1)
        for name in columns:
            columns[name] += table[name]
    return Metrics(columns)
