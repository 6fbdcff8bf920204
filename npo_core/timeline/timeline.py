"""The timeline of a run: all its branches, segments and snapshots, by their records in the workspace."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from npo_core.errors import DamagedError, DataError, NPOError
from npo_core.timeline.records import Branch, Record, Segment
from npo_core.timeline.snapshots import Snapshots
from npo_core.timeline.store import Store, json_bytes
from npo_core.timeline.tree import Root, Stretch, Tree, opened

R = TypeVar("R", bound=Record)


class Timeline:
    """All branches, segments and snapshots of a run, in its workspace.

    Records are added, never changed: each is read once, as long as it is listed.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.snapshots = Snapshots(store.child("snapshots"))
        self._known: dict[str, Record] = {}  # by path; what was read

    def branch(self, name: str) -> Branch:
        """The branch of this name. Raises DataError if there is none, DamagedError if its record is damaged."""
        return self._named(Branch, "branch", name, f"branches/{name}.json", "branches")

    def branches(self) -> list[Branch]:
        """All branches, sorted by name."""
        names = [file.removesuffix(".json") for file in self.store.list("branches") if file.endswith(".json")]
        return [self.branch(name) for name in sorted(names)]

    def add_branch(self, branch: Branch) -> Branch:
        """Records a branch and returns it as recorded, with its `order`.

        One that is there already with the same content is fine. Raises NPOError otherwise.
        """
        new = branch.model_copy(update={"order": len(self.branches())})
        if self._create(f"branches/{branch.name}.json", new):
            return new
        there = self.branch(branch.name)
        if there != branch.model_copy(update={"order": there.order}):
            raise NPOError(_conflict(f"branch '{branch.name}'", there, branch))
        return there

    def final(self) -> Branch | None:
        """The branch that was opened last, on which the run goes on; None before the first."""
        return next(reversed(opened(self.branches())), None)

    def states(self, branch: str) -> dict[int, str]:
        """The snapshots on the path from the root to the branch's tip: step -> id, rising."""
        parent = self.branch(branch)
        found = {} if parent.parent is None else {parent.parent_step: parent.parent}
        for stretch in self.stretches(branch):
            made = {stretch.segment.t0: stretch.segment.start, **stretch.segment.produced()}
            found |= {step: id_ for step, id_ in made.items() if stretch.t0 <= step <= stretch.t1}
        return dict(sorted(found.items()))

    def segment(self, id_: str) -> Segment:
        """The segment with this id. Raises DataError if there is none, DamagedError if its record is damaged."""
        return self._named(Segment, "segment", id_, f"segments/{id_}/segment.json", "segments")

    def segments(self) -> list[Segment]:
        """All finished segments, sorted by branch, start and id."""
        files = {id_: f"segments/{id_}/segment.json" for id_ in self.store.list("segments")}
        ids = [id_ for id_, file in files.items() if file in self._known or self.store.exists(file)]
        return sorted(map(self.segment, ids), key=lambda segment: (segment.branch, segment.t0, segment.id))

    def add_segment(self, segment: Segment) -> Segment:
        """Records a finished segment at the tip of its branch and returns what is recorded.

        A segment recorded already is kept with the cost measured then, where all else is the same.
        Raises NPOError if it differs or does not start at the tip, DataError if there is no such branch.
        """
        recorded = {there.id: there for there in self.segments()}
        if segment.id not in recorded:
            _check_tip(self.branch(segment.branch), list(recorded.values()), segment)
            if self._create(f"segments/{segment.id}/segment.json", segment):
                return segment
        there = self.segment(segment.id)
        if there.model_copy(update={"cost": segment.cost}) != segment:
            raise NPOError(_conflict(f"segment '{segment.id}'", there, segment))
        return there

    def path(self, branch: str) -> list[Segment]:
        """The segments from the root to the branch's tip; see `stretches` for where the path leaves them."""
        return [stretch.segment for stretch in self.stretches(branch)]

    def stretches(self, branch: str) -> list[Stretch]:
        """The path from the root to the branch's tip: segments with the steps (t0, t1] that lie on it."""
        self.branch(branch)
        return self._tree().stretches(branch)

    def tree(self) -> list[Root]:
        """The run as nested structure: roots, and below them segments and the branches that leave them."""
        return self._tree().roots()

    def draw(self) -> str:
        """The run's branches as text, a line for each segment."""
        return self._tree().draw()

    def _tree(self) -> Tree:
        return Tree(self.branches(), self.segments())

    def _create(self, rel: str, record: Record) -> bool:
        return self.store.create_bytes(rel, json_bytes(record.model_dump(mode="json")))

    def _named(self, kind: type[R], word: str, name: str, rel: str, folder: str) -> R:
        if isinstance(there := self._known.get(rel), kind):
            return there
        data: Any = self.store.read_json(rel, default=None)
        if data is None:
            known = [file.removesuffix(".json") for file in self.store.list(folder)]
            raise DataError(
                f"There is no {word} '{name}' in {self.store.uri}: give one of {', '.join(known) or '(none yet)'}."
            )
        try:
            found = self._known[rel] = kind.model_validate(data)
            return found
        except ValidationError as error:
            raise DamagedError(
                f"{self.store.uri}/{rel} is no record of a {word} ({_first(error)}): restore it, or delete it and "
                f"start the same command again."
            ) from error


def _check_tip(branch: Branch, segments: list[Segment], new: Segment) -> None:
    """Raises NPOError unless `new` starts where its branch ends so far, or fills the place of one that was deleted."""
    later = [s for s in segments if s.branch == branch.name and s.t0 >= new.t0]
    if later and min(later, key=lambda segment: segment.t0).start != new.end:
        later = []
    own = [segment for segment in segments if segment.branch == branch.name and segment not in later]
    tip = max(((segment.t1, segment.end) for segment in own), default=(branch.parent_step, branch.parent))
    free = not own and branch.parent is None  # the base model's snapshot is known only to the first segment
    if new.t0 != tip[0] or (new.start != tip[1] and not free):
        raise NPOError(
            f"Segment '{new.id}' starts at {new.start} after step {new.t0}, but branch '{branch.name}' ends at "
            f"{tip[1]} after step {tip[0]}: add a branch that starts there and train on it."
        )


def _conflict(thing: str, there: Record, new: Record) -> str:
    old, other = there.model_dump(), new.model_dump()
    differ = [key for key in old if old[key] != other[key]]
    fields = ", ".join(f"{key}: {old[key]!r} is recorded, {other[key]!r} given" for key in differ)
    return f"The {thing} exists with other content ({fields}): records never change, choose another name."


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'record'}: {problem['msg']}"
