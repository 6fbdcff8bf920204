"""The curves of a stage that still trains, from its progress events."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from npo_core.reporting.plots import ABANDONED, BASELINE, EXTRA, MUTED, RUN, draw, whole_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Event = Mapping[str, Any]
MOST = 400  # points of a curve; of longer ones every other is left out
PANELS = {
    "reward": ("reward, mixed group", RUN),
    "pass_rate": ("training pass rate, on-policy", BASELINE),
    "entropy": ("entropy of the policy, nats a token", ABANDONED),
    "groups_injected": ("groups that took guidance, a step", EXTRA),
}


class LiveCurves:
    """The events of a stage so far, at most twice `MOST` of them."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, event: Event) -> None:
        if self.events and event["done"] <= self.events[-1]["done"]:
            self.events.clear()  # the stage was started again
        self.events.append(event)
        if len(self.events) > 2 * MOST:
            del self.events[1::2]


def live_png(events: Sequence[Event]) -> bytes:
    """Reward, pass rate, entropy and injection over the updates so far."""
    return draw("AB;CD", (9, 5.4), lambda axes: fill(axes, events), False)


def fill(axes: Sequence["Axes"], events: Sequence[Event]) -> None:
    for ax, (name, (title, colour)) in zip(axes, PANELS.items(), strict=True):
        told = [(event.get("step", event["done"]), event[name]) for event in events if event.get(name) is not None]
        ax.set(title=title, xlabel="step", ylim=(0, None))
        whole_steps(ax)
        if told:
            ax.plot(*zip(*told, strict=True), color=colour, linewidth=1.6, marker="." if len(told) < 40 else "")
        else:
            ax.text(0.5, 0.5, "none", transform=ax.transAxes, ha="center", color=MUTED)
