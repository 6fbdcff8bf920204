"""Tell trackers what they do not know yet, and note how far they were told."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from npo_core.reporting.records import Workspace
from npo_core.tracking.ledger import Ledger, Told, open_ledger, write_ledger
from npo_core.tracking.story import Event, events, rows, with_new_parts
from npo_core.tracking.tracker import About, Tracker, connect, without_credentials


class Teller:
    """Connected trackers of a workspace.

    Args:
        names: of the trackers. about: the run; its id, name and how far it was told come from the ledger.
        report: told in one sentence what goes wrong with a tracker after the beginning; it is tried again next time.

    Raises:
        Exception: whatever a library raises that cannot connect.
    """

    def __init__(self, workspace: Workspace, names: tuple[str, ...], about: About, report: Callable[[str], None]):
        self.workspace, self.report = workspace, report
        ledger = open_ledger(workspace.store)
        about = replace(about, id=ledger.id, name=f"{about.name}-{ledger.id}")
        told = {name: ledger.told.get(name, Told()).updates for name in dict.fromkeys(names)}
        self.trackers: Mapping[str, Tracker] = {name: connect(name, replace(about, told=n)) for name, n in told.items()}
        links = {name: without_credentials(tracker.link) for name, tracker in self.trackers.items()}
        self.ledger = ledger.model_copy(update={"links": ledger.links | links})
        write_ledger(workspace.store, self.ledger)

    def sync(self, last: Event | None = None) -> bool:
        """Tell every tracker what was committed since; whether all were told.

        `last`: how the process ended that trained.
        """
        known = self.ledger
        self.ledger = with_new_parts(self.workspace, known)
        if self.ledger is not known:
            write_ledger(self.workspace.store, self.ledger)  # from here on each update has its number
        known_to = [set(self.ledger.told.get(name, Told()).events) for name in self.trackers]
        happened = events(self.workspace, self.ledger, set.intersection(*known_to))
        if last is not None:
            happened.append(replace(last, key=f"{last.key}/{self.ledger.updates}", update=self.ledger.updates))
        return all([self._tell(name, happened) for name in self.trackers])

    def _tell(self, name: str, happened: list[Event]) -> bool:
        tracker, told = self.trackers[name], self.ledger.told.get(name, Told())
        new = [event for event in happened if event.key not in told.events]
        if told.updates == self.ledger.updates and not new:
            return True
        try:
            after = max(told.updates, tracker.newest() or 0)
            tell(tracker, self.workspace, self.ledger, after, new)
            tracker.flush()
        except Exception as error:
            self.report(f"The tracker {name} could not be told and is tried again: {described(error)}")
            return False
        told = Told(updates=self.ledger.updates, events=[*told.events, *(event.key for event in new)])
        self.ledger = self.ledger.with_told(name, told)
        write_ledger(self.workspace.store, self.ledger)
        return True

    def close(self, failed: bool) -> None:
        """Leave all trackers."""
        for name, tracker in self.trackers.items():
            try:
                tracker.close(failed)
            except Exception as error:
                self.report(f"The tracker {name} could not be left in order: {described(error)}")


def described(error: Exception) -> str:
    """What a library raised, without credentials."""
    return without_credentials(f"{type(error).__name__}: {error}")


def tell(tracker: Tracker, workspace: Workspace, ledger: Ledger, after: int, new: list[Event]) -> None:
    """Updates and events in the order of updates; an event follows the update that it belongs to."""
    waiting = sorted(new, key=lambda event: event.update)
    for update, values in rows(workspace, ledger, after):
        while waiting and waiting[0].update < update:
            tracker.event(waiting.pop(0))
        tracker.row(update, values)
    for event in waiting:
        tracker.event(event)
