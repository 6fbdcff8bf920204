"""What reports read of a run: what a workspace has to offer, its stages, segments still in progress, metrics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Protocol

from npo_core.config import RunConfig
from npo_core.names import AUTO_NPO, RESULT_FILE, SPEC_FILE
from npo_core.timeline import Segment, Store, Stretch, Timeline
from npo_core.timeline.segments import STEP_SCHEMA, read_marks, read_steps

Column = list[float | None]


class Workspace(Protocol):
    """The part of a workspace that reports use; `npo_core.stages.workspace.Workspace` is one."""

    store: Store
    timeline: Timeline

    @property
    def uri(self) -> str: ...

    @property
    def scratch(self) -> Path: ...

    def config(self) -> RunConfig: ...

    def guidance(self, cache: str) -> Store: ...


@dataclass(frozen=True)
class Stage:
    """A stage's folder: what was asked, and the record of its result once it has one."""

    folder: str  # relative to the workspace
    name: str
    fingerprint: str
    spec: dict[str, Any]
    record: dict[str, Any] | None

    @property
    def result(self) -> dict[str, Any]:
        """The stage's result as stored; empty without one."""
        return (self.record or {}).get("result", {})

    @property
    def cost(self) -> dict[str, float]:
        """Seconds, tokens and updates as stored; empty without a result."""
        return self.result.get("cost", {})


def read_stages(workspace: Workspace) -> list[Stage]:
    """All stages that were ever started: the finished by their start, then the others."""
    stages = []
    for name in workspace.store.list("stages"):
        folder = f"stages/{name}"
        spec = workspace.store.read_json(f"{folder}/{SPEC_FILE}", default=None)
        if spec is not None:
            kind, _, fingerprint = name.rpartition("-")
            record = workspace.store.read_json(f"{folder}/{RESULT_FILE}", default=None)
            stages.append(Stage(folder, kind, fingerprint, spec, record))
    return sorted(stages, key=lambda stage: ((stage.record or {}).get("started", float("inf")), stage.folder))


def read_decisions(workspace: Workspace) -> list[dict[str, Any]]:
    """All decisions in order, each with its `outcome` and `approval` where there are such."""
    found, names = [], workspace.store.list("decisions")
    for number in sorted(stem for name in names if (stem := name.removesuffix(".json")).isdigit()):
        also = {kind: f"{number}-{kind}.json" for kind in ("outcome", "approval")}
        extra = {k: workspace.store.read_json(f"decisions/{name}") for k, name in also.items() if name in names}
        found.append({**workspace.store.read_json(f"decisions/{number}.json"), **extra})
    return found


def is_watched(stages: Iterable[Stage], decisions: Iterable[dict[str, Any]]) -> bool:
    """Whether AutoNPO works on a run: it keeps signals while it trains, and makes decisions."""
    return any(stage.spec.get("control") for stage in stages) or any(d["flow"] == AUTO_NPO for d in decisions)


def run_segments(workspace: Workspace, stages: Iterable[Stage]) -> list[Segment]:
    """All segments, and with them the committed parts of unfinished ones."""
    finished = workspace.timeline.segments()
    known = {segment.id for segment in finished}
    begun = [stage for stage in stages if stage.name == "train" and stage.fingerprint not in known]
    return finished + [segment for stage in begun if (segment := committed(workspace, stage)) is not None]


def committed(workspace: Workspace, stage: Stage) -> Segment | None:
    """What an unfinished train stage has committed so far, as a segment; None where it is nothing yet."""
    marks = read_marks(workspace.store, stage.fingerprint)
    if not marks:
        return None
    start = workspace.timeline.snapshots.get(stage.spec["start"])
    return Segment(
        id=stage.fingerprint,
        branch=stage.spec["branch"],
        start=start.id,
        end=marks[-1].snapshot,
        t0=start.step,
        t1=marks[-1].step,
        snapshots={mark.step: mark.snapshot for mark in marks},
        parts=[mark.step for mark in marks],
        cache=stage.spec.get("cache"),
        cost={"seconds": sum(mark.seconds for mark in marks)},
    )


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
    def steps(self) -> list[int]:
        """The numbers of the updates, which none is without."""
        return [int(step) for step in self["step"] if step is not None]

    @property
    def tokens(self) -> int:
        """Tokens that the policy generated."""
        return int(sum(value or 0 for value in self["tokens_generated"]))

    def until(self, step: int) -> "Metrics":
        """The updates up to and including `step`."""
        return self.between(-1, step)

    def between(self, t0: int, t1: int) -> "Metrics":
        """The updates in (t0, t1]."""
        wanted = [t0 < step <= t1 for step in self.steps]
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
    own = columns["entropy_on_policy"]  # older runs have that of all tokens alone
    columns["entropy_on_policy"] = [e if o is None else o for o, e in zip(own, columns["entropy"], strict=True)]
    return Metrics(columns)
