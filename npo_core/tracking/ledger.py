"""`tracking.json`: in which order a run was trained, and how far each tracker was told of it."""

import uuid

from npo_core.timeline import Store
from npo_core.timeline.records import Record

FILE = "tracking.json"


class Part(Record):
    """A committed part of a segment, the steps (t0, t1], in the order in which parts were told first."""

    segment: str
    branch: str
    t0: int
    t1: int
    snapshot: str
    ended: str | None = None


class Told(Record):
    """How far a tracker was told: updates of all parts together, and events by their keys."""

    updates: int = 0
    events: list[str] = []


class Ledger(Record):
    """Of a workspace. `id` names its one run in every tracker; `links` are where that is."""

    id: str
    parts: list[Part] = []
    told: dict[str, Told] = {}
    links: dict[str, str] = {}

    @property
    def updates(self) -> int:
        """Updates of all parts, those of abandoned branches included."""
        return sum(part.t1 - part.t0 for part in self.parts)

    def starts(self) -> list[tuple[int, Part]]:
        """Each part with the updates of all parts before it."""
        found, before = [], 0
        for part in self.parts:
            found.append((before, part))
            before += part.t1 - part.t0
        return found

    def update_of(self, snapshot: str) -> int | None:
        """The update after which a snapshot was made; None where no part made it."""
        return next((before + p.t1 - p.t0 for before, p in self.starts() if p.snapshot == snapshot), None)

    def with_told(self, tracker: str, told: Told) -> "Ledger":
        """The ledger after a tracker was told."""
        return self.model_copy(update={"told": {**self.told, tracker: told}})


def read_ledger(store: Store) -> Ledger | None:
    """The ledger of a workspace; None before the first run that is tracked."""
    values = store.read_json(FILE, default=None)
    return None if values is None else Ledger.model_validate(values)


def open_ledger(store: Store) -> Ledger:
    """The ledger of a workspace, a new one where there is none."""
    ledger = read_ledger(store)
    if ledger is None:
        write_ledger(store, ledger := Ledger(id=uuid.uuid4().hex[:8]))
    return ledger


def write_ledger(store: Store, ledger: Ledger) -> None:
    """Keep a ledger."""
    store.write_json(FILE, ledger.model_dump(mode="json"))


def links(store: Store) -> dict[str, str]:
    """Where each tracker shows a workspace's run: a page, or a folder; nothing where it was never tracked."""
    ledger = read_ledger(store)
    return {} if ledger is None else ledger.links
