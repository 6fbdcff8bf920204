"""Which branch is which: the one that a run is judged by, the path to it, and what was trained and then abandoned."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from npo_core.names import AUTO_NPO, EARLY_BOOTSTRAP, FORK, GRPO, PLATEAU
from npo_core.timeline import Branch, Segment, Stretch, Tree, opened

SCOUT = "scout"
LATE, REPLAY = re.compile(r"late-"), re.compile(r"replay-\d+$")  # branches of plateau breakthrough, and of AutoNPO
FORKED = re.compile(r"fork-\d+$")  # the branch on which a fork goes on
Position = tuple[int, float]  # the number of a branch as opened, and a step on it


class RunSegment(NamedTuple):
    """The steps (t0, t1] of a segment, as far as they were kept or abandoned."""

    branch: str
    t0: int
    t1: int
    guided: bool
    kept: bool  # on the path to the result


@dataclass(frozen=True)
class Roles:
    """The branches of a run by what they are for.

    opened      all branches in the order they were opened
    parents     the branch that each of them leaves; None: the base model
    final       the branch opened last; None while only the scout exists
    path        the steps from the base model to the final branch's tip
    abandoned   what was trained beside that path: paid for, but not part of the result; by branch as opened, then step
    """

    kind: str
    opened: list[Branch]
    parents: dict[str, str | None]
    final: Branch | None
    path: list[Stretch]
    abandoned: list[Stretch]

    @cached_property
    def rank(self) -> dict[str, int]:
        """The number of each branch among all as opened."""
        return {branch.name: number for number, branch in enumerate(self.opened)}

    def segments(self) -> list[RunSegment]:
        """Where segments begin and end, by branch as opened."""
        found = [
            RunSegment(s.segment.branch, s.t0, s.t1, s.segment.cache is not None, kept)
            for stretches, kept in ((self.path, True), (self.abandoned, False))
            for s in stretches
        ]
        return sorted(found, key=lambda segment: (self.rank[segment.branch], segment.t0))

    def snapshots(self, stretches: Sequence[Stretch]) -> list[tuple[Position, str]]:
        """Position and id of the snapshots on some stretches, and of those that each branch on them starts from."""
        found: list[tuple[Position, str]] = []
        for name, own in by_branch(stretches).items():
            made = {step: id_ for s in own for step, id_ in s.segment.produced().items() if s.t0 < step <= s.t1}
            found.append(((self.rank[name], own[0].t0), start_of(own[0])))
            found += [((self.rank[name], step), made[step]) for step in sorted(made)]
        return found

    def path_snapshots(self) -> list[tuple[Position, str]]:
        """Those on the path to the result; of a final branch without training, the one that it starts from."""
        found, final = self.snapshots(self.path), self.final
        if final and final.parent and final.name not in by_branch(self.path):
            found.append(((self.rank[final.name], final.parent_step), final.parent))
        return found


def assign(branches: Sequence[Branch], segments: Sequence[Segment], watched: bool = False) -> Roles:
    """Tell the path to the result from what was abandoned; `watched`: AutoNPO works on this run."""
    order, tree = opened(branches), Tree(branches, segments)
    final = order[-1] if order and order[-1].name != SCOUT else None
    path = tree.stretches(final.name) if final else []
    abandoned = [rest for segment in segments if (rest := beyond(segment, path)) is not None]
    names = [branch.name for branch in order]
    abandoned.sort(key=lambda rest: (names.index(rest.segment.branch), rest.t0))
    parents = {branch.name: parent_branch(tree, branch) for branch in order}
    return Roles(kind_of(branches, watched), order, parents, final, path, abandoned)


def kind_of(branches: Collection[Branch], watched: bool) -> str:
    """The flow that works here, by its branches and by whether AutoNPO watches them."""
    names = {branch.name for branch in branches}
    if any(map(LATE.match, names)):
        return PLATEAU
    if any(map(FORKED.match, names)):
        return FORK
    if watched or any(map(REPLAY.match, names)):
        return AUTO_NPO
    return EARLY_BOOTSTRAP if SCOUT in names or len(names) > 1 else GRPO


def parent_branch(tree: Tree, branch: Branch) -> str | None:
    """The branch that made the snapshot from which this one starts."""
    before = [s.segment.branch for s in tree.stretches(branch.name) if s.segment.branch != branch.name]
    return before[-1] if before else None


def beyond(segment: Segment, path: Sequence[Stretch]) -> Stretch | None:
    """The part of a segment after the path has left it; None where the path takes all of it."""
    leaves = max([stretch.t1 for stretch in path if stretch.segment.id == segment.id], default=segment.t0)
    return Stretch(segment, leaves, segment.t1) if leaves < segment.t1 else None


def by_branch(stretches: Sequence[Stretch]) -> dict[str, list[Stretch]]:
    """The stretches of each branch, in order."""
    found: dict[str, list[Stretch]] = {}
    for stretch in stretches:
        found.setdefault(stretch.segment.branch, []).append(stretch)
    return found


def start_of(stretch: Stretch) -> str:
    """The snapshot that a stretch starts from."""
    segment = stretch.segment
    return segment.start if stretch.t0 == segment.t0 else segment.produced().get(stretch.t0, segment.start)
