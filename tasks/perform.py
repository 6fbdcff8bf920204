"""Run a stage from a task: progress in the terminal and in Prefect, errors that Prefect knows when to try again."""

import sys
import time
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import TaskRun
from prefect.logging import get_run_logger
from prefect.states import State

from npo_core.stages.launch import StageResult, run_stage
from npo_core.stages.specs import Spec
from tasks.artifacts import key_of

TELL_PREFECT = 5.0  # seconds between progress updates; the server may be slow, a stage must not care
TELL_TERMINAL = 10.0  # seconds between lines where the terminal cannot redraw


def perform(spec: Spec, label: str, run_name: str) -> StageResult:
    """Run one stage to its end and show its progress; a stage that is done returns at once."""
    logger = get_run_logger()
    with Progress(label, run_name) as progress:
        result = run_stage(spec, progress)
    how = "was done already" if result.reused else f"took {result.seconds:.1f} s"
    logger.info("%s %s: %s", label, how, spec.folder)
    return result


def worth_retrying(task: Any, task_run: TaskRun, state: State) -> bool:
    """Prefect's retry condition: infrastructure failures are tried again, bad input and divergence are not."""
    error = state.result(raise_on_failure=False)
    return getattr(error, "retryable", False)


class Progress:
    """Tells terminal and Prefect how far a stage is, seldom enough to cost nothing."""

    def __init__(self, label: str, run_name: str):
        self.label, self.key = label, key_of(run_name, "progress", label)
        self.artifact = None
        self.told_prefect = time.monotonic()

    def __enter__(self) -> "Progress":
        self.terminal = Bar(self.label) if sys.stderr.isatty() else Lines(self.label)
        return self

    def __exit__(self, *error: object) -> None:
        self.terminal.close(failed=error[0] is not None)
        if self.artifact is not None and error[0] is None:
            self._tell_prefect(100.0)

    def __call__(self, event: dict[str, Any]) -> None:
        self.terminal.tell(event)
        if time.monotonic() - self.told_prefect >= TELL_PREFECT:
            self._tell_prefect(100.0 * event["done"] / max(event["total"], 1))
            self.told_prefect = time.monotonic()

    def _tell_prefect(self, percent: float) -> None:
        try:
            if self.artifact is None:
                self.artifact = create_progress_artifact(percent, key=self.key, description=self.label)
            else:
                update_progress_artifact(self.artifact, percent)
        except Exception as error:  # a server that is away is no reason to stop training
            get_run_logger().warning("Progress could not be shown: %s", error)


def describe(event: dict[str, Any]) -> str:
    """The figures of an event in few words."""
    names = {"reward": "reward", "pass_rate": "pass rate", "entropy": "entropy", "groups_injected": "injected"}
    names |= {"cut_off": "cut off"} if event.get("cut_off") else {}
    return "  ".join(f"{word} {event[name]:.2f}" for name, word in names.items() if event.get(name) is not None)


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
        if time.monotonic() - self.told >= TELL_TERMINAL:
            self.told = time.monotonic()
            self._print(f"{event['done']}/{event['total']}  {describe(event)}")

    def close(self, failed: bool) -> None:
        seconds = time.monotonic() - self.started
        state = "failed" if failed else "done" if self.last else "done already"
        self._print(f"{state} after {seconds:.1f} s  {describe(self.last) if self.last else ''}")

    def _print(self, text: str) -> None:
        print(f"{self.label:<28} {text}".rstrip(), file=sys.stderr, flush=True)
