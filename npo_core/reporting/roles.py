"""Which branch is which: the one that a run is judged by, the way to it, and what was trained and then left behind."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from npo_core.names import AUTO_NPO, EARLY_BOOTSTRAP, GRPO, PLATEAU
from npo_core.timeline import Branch, Segment, Stretch, Tree, opened

SCOUT = "scout"
LATE, REPLAY = re.compile(r"late-"), re.compile(r"replay-\d+$")  # branches of plateau breakthrough, and of AutoNPO


@dataclass(frozen=True)
class Roles:
    """The branches of a run by what they are for.

    opened      all branches in the order they were opened
    leaves      the branch that each of them leaves; None: the base model
    final       the branch opened last; None while only the scout exists
    way         the steps from the base model to the final branch's tip
    abandoned   what was trained beside that way: paid for, but not part of the result; by branch as opened, then step
    """

    kind: str
    opened: list[Branch]
    leaves: dict[str, str | None]
    final: Branch | None
    way: list[Stretch]
    abandoned: list[Stretch]

    @cached_property
    def rank(self) -> dict[str, int]:
        """The place of each branch among all as opened."""
        return {branch.name: number for number, branch in enumerate(self.opened)}


def assign(branches: Sequence[Branch], segments: Sequence[Segment], watched: bool = False) -> Roles:
    """Tell the way to the result from what was left behind; `watched`: AutoNPO works on this run."""
    order, tree = opened(branches), Tree(branches, segments)
    final = order[-1] if order and order[-1].name != SCOUT else None
    way = tree.stretches(final.name) if final else []
    rests = [rest for segment in segments if (rest := beyond(segment, way)) is not None]
    names = [branch.name for branch in order]
    rests.sort(key=lambda rest: (names.index(rest.segment.branch), rest.t0))
    leaves = {branch.name: left_branch(tree, branch) for branch in order}
    return Roles(kind_of(branches, watched), order, leaves, final, way, rests)


def kind_of(branches: Collection[Branch], watched: bool) -> str:
    """The flow that works here, by its branches and by whether AutoNPO watches them."""
    names = {branch.name for branch in branches}
    if any(map(LATE.match, names)):
        return PLATEAU
    if watched or any(map(REPLAY.match, names)):
        return AUTO_NPO
    return EARLY_BOOTSTRAP if SCOUT in names or len(names) > 1 else GRPO


def left_branch(tree: Tree, branch: Branch) -> str | None:
    """The branch that made the snapshot from which this one starts."""
    before = [s.segment.branch for s in tree.stretches(branch.name) if s.segment.branch != branch.name]
    return before[-1] if before else None


def beyond(segment: Segment, way: Sequence[Stretch]) -> Stretch | None:
    """The part of a segment after the way has left it; None where the way takes all of it."""
    leaves = max([stretch.t1 for stretch in way if stretch.segment.id == segment.id], default=segment.t0)
    return Stretch(segment, leaves, segment.t1) if leaves < segment.t1 else None
