"""The tree of branches: how segments hang together, the path to a tip, and a drawing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from npo_core.errors import DamagedError
from npo_core.timeline.records import Branch, Segment


@dataclass(frozen=True)
class Stretch:
    """The steps (t0, t1] of a segment that lie on a path; t1 is before the segment's end where the path leaves it."""

    segment: Segment
    t0: int
    t1: int


@dataclass(frozen=True)
class Node:
    """A segment of a branch, or a branch without one, and what goes on from the snapshots it made."""

    branch: Branch
    segment: Segment | None
    is_tip: bool
    children: tuple[Node, ...]

    @property
    def opens(self) -> bool:
        """Whether the branch starts here."""
        return self.segment is None or self.segment.t0 == self.branch.parent_step


@dataclass(frozen=True)
class Root:
    """A snapshot that no segment made: the base model (`snapshot` is None until a segment started from it)."""

    snapshot: str | None
    step: int
    children: tuple[Node, ...]


def opened(branches: Iterable[Branch]) -> list[Branch]:
    """The branches in the order they were opened.

    Records older than the field `order` all read 0: a scout and its replay, which its name puts behind the scout.
    """
    backwards = sorted(branches, key=lambda branch: branch.name, reverse=True)
    return sorted(backwards, key=lambda branch: (branch.order, branch.parent_step))


class Tree:
    """Branches and segments, related by the snapshots they start from and make.

    A snapshot that several segments made (an exact replay does so) belongs to the one whose branch starts earliest,
    then by name: what it holds is the same. Raises DamagedError if a segment's branch is not among `branches`.
    """

    def __init__(self, branches: Iterable[Branch], segments: Iterable[Segment]) -> None:
        self.branches = {branch.name: branch for branch in sorted(branches, key=lambda b: (b.parent_step, b.name))}
        self.chains: dict[str, list[Segment]] = {name: [] for name in self.branches}
        for segment in sorted(segments, key=lambda s: (s.t0, s.id)):
            if segment.branch not in self.chains:
                raise DamagedError(
                    f"Segment '{segment.id}' is on branch '{segment.branch}', which has no record: "
                    f"restore branches/{segment.branch}.json or delete segments/{segment.id}."
                )
            self.chains[segment.branch].append(segment)
        # Keyed with the step, so that a parent always starts before its child and no walk goes in a circle.
        self.makers: dict[tuple[int, str], Segment] = {}
        for segment in (segment for chain in self.chains.values() for segment in chain):
            for made in segment.produced().items():
                self.makers.setdefault(made, segment)

    def stretches(self, name: str) -> list[Stretch]:
        """The path from the root to the tip of a branch."""
        path = [Stretch(segment, segment.t0, segment.t1) for segment in self.chains[name]]
        while (fork := self._maker(self.branches[name])) is not None:
            leaves, name = self.branches[name].parent_step, fork.branch
            on_path = [segment for segment in self.chains[name] if segment.t0 < leaves]
            path = [Stretch(segment, segment.t0, min(segment.t1, leaves)) for segment in on_path] + path
        return path

    def roots(self) -> list[Root]:
        """The nested structure, sorted by step and snapshot."""
        starts: dict[tuple[int, str], list[Branch]] = {}
        for branch in self.branches.values():
            if self._maker(branch) is None:
                starts.setdefault((branch.parent_step, self._start(branch) or ""), []).append(branch)
        return [
            Root(snapshot or None, step, tuple(self._node(branch, 0) for branch in branches))
            for (step, snapshot), branches in sorted(starts.items())
        ]

    def draw(self) -> str:
        """The tree as text: name, steps, kind and last snapshot of each segment in columns."""
        rows = [row for root in self.roots() for row in _root_rows(root)]
        widths = [max((len(row[column]) for row in rows if len(row) > 1), default=0) for column in range(3)]
        return "\n".join(_line(row, widths) for row in rows) or "no branches yet"

    def _maker(self, branch: Branch) -> Segment | None:
        return self.makers.get((branch.parent_step, branch.parent)) if branch.parent else None

    def _start(self, branch: Branch) -> str | None:
        chain = self.chains[branch.name]
        return branch.parent or (chain[0].start if chain else None)

    def _node(self, branch: Branch, index: int) -> Node:
        chain = self.chains[branch.name]
        if not chain:
            return Node(branch, None, True, ())
        segment, is_tip = chain[index], index == len(chain) - 1
        forks = [self._node(other, 0) for other in self.branches.values() if self._maker(other) == segment]
        onward = [] if is_tip else [self._node(branch, index + 1)]
        return Node(branch, segment, is_tip, (*onward, *forks))


def short(id_: str | None) -> str:
    """The first digits of an id, as drawings show it."""
    return "none yet" if id_ is None else id_ if len(id_) <= 8 else f"{id_[:6]}…"


Row = tuple[str, ...]  # name, steps, kind, snapshot; or the one cell of a root


def _root_rows(root: Root) -> Iterator[Row]:
    yield (f"base {short(root.snapshot)}  step {root.step}",)
    yield from _child_rows(root.children, "")


def _child_rows(children: tuple[Node, ...], indent: str) -> Iterator[Row]:
    for child in children:
        last = child is children[-1]
        yield _row(child, indent + ("└── " if last else "├── "))
        yield from _child_rows(child.children, indent + ("    " if last else "│   "))


def _row(node: Node, indent: str) -> Row:
    name = indent + (node.branch.name if node.opens else "")
    segment = node.segment
    if segment is None:
        return name, f"{node.branch.parent_step} →", "nothing trained yet", "(tip)"
    snapshot = short(segment.end) + (" (tip)" if node.is_tip else "")
    return name, f"{segment.t0} → {segment.t1}", _kind(node.branch, segment), snapshot


def _kind(branch: Branch, segment: Segment) -> str:
    if segment.cache is None:
        return "GRPO"
    guides = " by " + ", ".join(map(short, branch.guide)) if branch.guide else ""
    return f"guided{guides}  cache {short(segment.cache)}"


def _line(row: Row, widths: list[int]) -> str:
    if len(row) == 1:
        return row[0]
    return "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
