"""Which finished runs below a folder stand still and were not treated: what a sweep starts plateau-breakthrough on."""

from dataclasses import dataclass

from npo_core.config import Trigger
from npo_core.control.path import path_rows
from npo_core.control.plateau import find_plateau
from npo_core.control.records import Decisions
from npo_core.control.signals import readings
from npo_core.errors import NPOError
from npo_core.names import PLATEAU
from npo_core.recipes.runs import find_runs, state
from npo_core.recipes.status import status
from npo_core.reporting.tables import Table
from npo_core.stages.workspace import Workspace

STILL, MOVES, TREATED, UNFINISHED, UNREADABLE = (
    "stands still",
    "does not stand still",
    "treated",
    "not finished",
    "cannot be read",
)


@dataclass(frozen=True)
class Looked:
    """What a look at a run found; `tip` is the newest snapshot of its final branch."""

    workspace: str
    found: str  # one of the words above
    why: str
    tip: str | None = None

    @property
    def name(self) -> str:
        """What people call it: the last part of its URI."""
        return self.workspace.rstrip("/").rsplit("/", 1)[-1]


def look_at_runs(folder: str, trigger: Trigger) -> list[Looked]:
    """A look at every run right below a folder, those changed longest ago first. Raises DataError: it is no folder."""
    return [look_at(workspace, trigger) for workspace in reversed(find_runs(folder))]


def look_at(workspace: Workspace, trigger: Trigger) -> Looked:
    """A look at one run; nothing is written."""
    try:
        return verdict(workspace, trigger)
    except NPOError as error:
        return Looked(workspace.uri, UNREADABLE, str(error))


def verdict(workspace: Workspace, trigger: Trigger) -> Looked:
    """Whether a run is finished, was treated, and stands still at its end. Raises NPOError: it cannot be read."""
    uri = workspace.uri
    data = status(workspace)
    if data["stopped"] or not data["finished"]:
        return Looked(uri, UNFINISHED, f"Its state: {state(workspace)}.")
    if treated := [decision for decision in Decisions(workspace.store).all() if decision.flow == PLATEAU]:
        return Looked(uri, TREATED, f"{PLATEAU} decided on it at step {treated[-1].step}: {treated[-1].reason}")
    branch = workspace.timeline.final()
    states = workspace.timeline.states(branch.name) if branch else {}
    if branch is None or not states:
        return Looked(uri, UNFINISHED, "It has no branch.")
    rows = path_rows(workspace.timeline, branch.name, max(states))
    plateau, seen = find_plateau(rows, trigger), readings(rows, trigger)
    if plateau is None:
        return Looked(uri, MOVES, "The signals never warn of a plateau.")
    end = seen[-1].pass_rate
    if end > plateau.level + max(trigger.min_gain, 0.0):
        why = f"It left the plateau of update {plateau.warned}: the average pass rate rose from {plateau.level:.3f} to "
        return Looked(uri, MOVES, f"{why}{end:.3f}.")
    why = f"Its plateau began at update {plateau.began}; the average pass rate at the end is {end:.3f}."
    return Looked(uri, STILL, why, states[max(states)])


def sweep_table(folder: str, rows: list[tuple[Looked, str]]) -> Table:
    """What was found, and what was done about it, as text."""
    cells = [[looked.name, looked.found, looked.why, done] for looked, done in rows]
    header = ["run", "found", "why", "done"]
    return Table(f"Runs in {folder}", header, cells, "", tuple(header[1:]))
