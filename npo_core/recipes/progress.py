"""How far a stage is, in the terminal: a bar where it can redraw, else a line now and then."""

import sys
import time
from typing import Any

EVERY = 10.0  # seconds between lines where the terminal cannot redraw


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
    said = [f"{word} {event[name]:.2f}" for name, word in names.items() if event.get(name) is not None]
    if event.get("unverified"):
        said.append(f"unverified {event['unverified']:g}")
    return "  ".join(said)


class Bar:
    """A progress bar for a terminal that can redraw."""

    def __init__(self, label: str):
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.rich = RichProgress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.rich.start()
        self.task = self.rich.add_task(label, total=None, figures="")

    def tell(self, event: dict[str, Any]) -> None:
        self.rich.update(self.task, completed=event["done"], total=event["total"], figures=describe(event))

    def close(self, failed: bool) -> None:
        task = self.rich.tasks[self.task]
        if task.total is None and not failed:
            self.rich.update(self.task, total=1, completed=1, figures="done already")
        self.rich.stop()


class Lines:
    """A line now and then, for logs."""

    def __init__(self, label: str):
        self.label, self.told, self.last = label, time.monotonic(), None
        self.started = self.told

    def tell(self, event: dict[str, Any]) -> None:
        self.last = event
        if time.monotonic() - self.told >= EVERY:
            self.told = time.monotonic()
            self._print(f"{event['done']}/{event['total']}  {describe(event)}")

    def close(self, failed: bool) -> None:
        seconds = time.monotonic() - self.started
        state = "failed" if failed else "done" if self.last else "done already"
        self._print(f"{state} after {seconds:.1f} s  {describe(self.last) if self.last else ''}")

    def _print(self, text: str) -> None:
        print(f"{self.label:<28} {text}".rstrip(), file=sys.stderr, flush=True)
