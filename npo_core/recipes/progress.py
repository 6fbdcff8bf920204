"""How far a stage is, in the terminal: a bar where it can redraw, else a line now and then."""

import sys
import time
from typing import Any

from npo_core.reporting.tables import duration

EVERY = 5.0  # seconds between lines where the terminal cannot redraw


class Progress:
    """Shows one stage on stderr, from `with` to its end; call it with every event of the stage."""

    def __init__(self, label: str):
        self.label = label

    def __enter__(self) -> "Progress":
        self.terminal = Bar(self.label) if sys.stderr.isatty() else Lines(self.label)
        return self

    def __exit__(self, *error: object) -> None:
        self.terminal.close(failed=error[0] is not None)

    def __call__(self, event: dict[str, Any]) -> None:
        self.terminal.tell(event)


def describe(event: dict[str, Any]) -> str:
    """The figures of an event in few words."""
    names = {"reward": "reward", "pass_rate": "pass rate", "entropy": "entropy", "groups_injected": "injected"}
    names |= {"cut_off": "cut off"} if event.get("cut_off") else {}
    said = [f"{word} {event[name]:.2f}" for name, word in names.items() if event.get(name) is not None]
    if event.get("unverified"):
        said.append(f"unverified {event['unverified']:g}")
    return "  ".join(said)


class Pace:
    """How fast a stage goes, from the first event that it told to the newest."""

    def __init__(self) -> None:
        self.first: dict[str, Any] | None = None

    def __call__(self, event: dict[str, Any]) -> str:
        """`3.1 s each, 9 min left`; empty where two events do not tell yet, and at the end."""
        if self.first is None or event["done"] < self.first["done"]:
            self.first = event
        done, left = event["done"] - self.first["done"], event["total"] - event["done"]
        if done <= 0 or left <= 0:
            return ""
        each = (event["time"] - self.first["time"]) / done
        return f"{each:.2g} s each, {duration(each * left)} left"


class Bar:
    """A progress bar for a terminal that can redraw."""

    def __init__(self, label: str):
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self.rich = RichProgress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.rich.start()
        self.task, self.pace = self.rich.add_task(label, total=None, figures=""), Pace()

    def tell(self, event: dict[str, Any]) -> None:
        """Show an event of the stage."""
        figures = "  ".join(filter(None, [self.pace(event), describe(event)]))
        self.rich.update(self.task, completed=event["done"], total=event["total"], figures=figures)

    def close(self, failed: bool) -> None:
        """End the bar."""
        task = self.rich.tasks[self.task]
        if task.total is None and not failed:
            self.rich.update(self.task, total=1, completed=1, figures="done already")
        self.rich.stop()


class Lines:
    """A line now and then, for logs."""

    def __init__(self, label: str):
        self.label, self.told = label, time.monotonic()
        self.last: dict[str, Any] | None = None  # event
        self.started, self.pace = self.told, Pace()

    def tell(self, event: dict[str, Any]) -> None:
        """Print an event, at most one in `EVERY` seconds."""
        self.last, pace = event, self.pace(event)
        if time.monotonic() - self.told >= EVERY:
            self.told = time.monotonic()
            self._print("  ".join(filter(None, [f"{event['done']}/{event['total']}", pace, describe(event)])))

    def close(self, failed: bool) -> None:
        """Print how it ended."""
        seconds = time.monotonic() - self.started
        state = "failed" if failed else "done" if self.last else "done already"
        self._print(f"{state} after {seconds:.1f} s  {describe(self.last) if self.last else ''}")

    def _print(self, text: str) -> None:
        print(f"{self.label:<28} {text}".rstrip(), file=sys.stderr, flush=True)
