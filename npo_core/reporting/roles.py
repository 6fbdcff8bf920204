"""Which branch is which: the scouts that ran ahead, and the branch that a run is judged by."""

from collections.abc import Sequence
from dataclasses import dataclass

from npo_core.timeline import Branch, Segment, Stretch, Tree

SCOUT = "scout"
GRPO, EARLY_BOOTSTRAP = "grpo", "early-bootstrap"


@dataclass(frozen=True)
class Roles:
    """The branches of a run by what they are for.

    final       the branch trained to the run's end; None while only the scout exists
    way         the steps from the base model to the final branch's tip
    abandoned   what the scouts trained beyond that way: paid for, but not part of the result
    """

    kind: str
    final: Branch | None
    way: list[Stretch]
    abandoned: list[Stretch]


def assign(branches: Sequence[Branch], segments: Sequence[Segment]) -> Roles:
    """Tell scouts from the final branch. A scout is called so, or made a snapshot that guides another branch."""
    scouts = {branch.name for branch in branches if is_scout(branch, branches, segments)}
    tips = {
        branch.name: max([s.t1 for s in segments if s.branch == branch.name], default=branch.parent_step)
        for branch in branches
    }
    final = max((b for b in branches if b.name not in scouts), key=lambda b: (tips[b.name], b.name), default=None)
    way = Tree(branches, segments).stretches(final.name) if final else []
    abandoned = [rest for s in segments if s.branch in scouts and (rest := beyond(s, way)) is not None]
    return Roles(EARLY_BOOTSTRAP if scouts else GRPO, final, way, sorted(abandoned, key=lambda stretch: stretch.t0))


def is_scout(branch: Branch, branches: Sequence[Branch], segments: Sequence[Segment]) -> bool:
    made = {id_ for segment in segments if segment.branch == branch.name for id_ in segment.produced().values()}
    return branch.name == SCOUT or any(made & set(other.guide) for other in branches if other != branch)


def beyond(segment: Segment, way: Sequence[Stretch]) -> Stretch | None:
    """The part of a segment after the way has left it; None where the way takes all of it."""
    leaves = max([stretch.t1 for stretch in way if stretch.segment.id == segment.id], default=segment.t0)
    return Stretch(segment, leaves, segment.t1) if leaves < segment.t1 else None
