"""Run a stage from a task: progress in the terminal and in Prefect, errors that Prefect knows when to try again."""

import time
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import TaskRun
from prefect.logging import get_run_logger
from prefect.states import State

from npo_core.recipes.progress import Pace, describe
from npo_core.recipes.progress import Progress as TerminalProgress
from npo_core.reporting.live import LiveCurves, live_png
from npo_core.stages.launch import StageResult, run_stage
from npo_core.stages.specs import Spec
from tasks.artifacts import Kept, key_of, picture
from tasks.outside import interruptible

DRAW = 15.0  # seconds between pictures of a stage that trains
TELL_PREFECT = 5.0  # seconds between progress updates; the server may be slow, a stage must not care


def perform(spec: Spec, label: str, run_name: str) -> StageResult:
    """Run one stage to its end and show its progress; a stage that is done returns at once."""
    logger = get_run_logger()
    with Progress(label, run_name) as progress, interruptible():
        result = run_stage(spec, progress)
    how = "was done already" if result.reused else f"took {result.seconds:.1f} s"
    logger.info("%s %s: %s", label, how, spec.folder)
    return result


def worth_retrying(task: Any, task_run: TaskRun, state: State) -> bool:
    """Prefect's retry condition: infrastructure failures are tried again, bad input and divergence are not."""
    error = state.result(raise_on_failure=False)
    return getattr(error, "retryable", False)


class Progress(TerminalProgress):
    """Tells Prefect, too, how far a stage is, seldom enough to cost nothing, and draws training as it goes on."""

    def __init__(self, label: str, run_name: str):
        super().__init__(label)
        self.key, self.artifact = key_of(run_name, "progress", label), None
        self.told_prefect = time.monotonic()
        self.live = Live(label, run_name)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if error[0] is not None:
            self.live.publish()  # a run that failed keeps its curves up to there
        elif self.artifact is not None:
            self._tell_prefect(100.0)

    def __call__(self, event: dict[str, Any]) -> None:
        super().__call__(event)
        self.live(event)
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


class Live:
    """The curves of a training stage so far, as one artifact that is renewed every `DRAW` seconds."""

    def __init__(self, label: str, run_name: str):
        self.label, self.kept = label, Kept(key_of(run_name, "live", label), f"{label}: curves so far")
        self.curves, self.pace, self.drawn, self.left = LiveCurves(), Pace(), time.monotonic(), ""

    def __call__(self, event: dict[str, Any]) -> None:
        if "reward" not in event:
            return
        self.curves.add(event)
        self.left = self.pace(event)
        if time.monotonic() - self.drawn >= DRAW:
            self.publish()

    def publish(self) -> None:
        if not self.curves.events:
            return
        self.drawn, events = time.monotonic(), list(self.curves.events)
        newest = events[-1]
        told = [f"{newest['done']} of {newest['total']} updates", self.left, describe(dict(newest)).replace("  ", ", ")]
        text = f"## {self.label}, so far\n\n{', '.join(filter(None, told))}."
        self.kept.renew(text, lambda: picture(live_png(events), self.label))
