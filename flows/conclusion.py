"""How a flow run begins and ends for those who look at it: where it lies, what came of it, or one sentence why not."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed, State

from npo_core.config import Plateau
from npo_core.errors import NPOError
from npo_core.names import PLATEAU
from npo_core.reporting.intervals import of_score

IN_THE_UI = [  # what a terminal's user does, and what a click does
    (re.compile(r"(remove|delete) (it|the folder) and start the same command again"), r"\1 \2 and press Retry"),
    (re.compile(r"start(ing)? (the same command|it) again"), r"press\1 Retry"),
]


class Sentences(logging.Filter):
    """Drops the traceback of an error that this project raised on purpose: its message says all."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, NPOError):
            record.msg, record.args, record.exc_info = in_the_ui(error), (), None
        return True


def one_sentence_each() -> None:
    """Log errors of this project without their traceback."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, Sentences) for known in logger.filters):
            logger.addFilter(Sentences())


def in_the_ui(error: NPOError) -> str:
    """What went wrong, with the remedies that a deployment's run has in the UI."""
    text = str(error)
    if deployment.id:
        for words, click in IN_THE_UI:
            text = words.sub(click, text)
    return text


def tell_where(workspace: str) -> None:
    """The workspace as the first line of the log, and as a tag by which runs on it are found."""
    get_run_logger().info("Workspace: %s", workspace)
    tag = f"workspace:{workspace}"
    if tag not in flow_run.tags:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, tags=[*flow_run.tags, tag])


def done(recipe: str, figures: Mapping[str, Any], workspace: str, plateau: Plateau | None) -> State[dict]:
    """The end of a run that came to its report, which its last line and its state tell."""
    told = [no_plateau(figures, plateau) if recipe == PLATEAU else None, result(figures)]
    message = f"{' '.join(filter(None, told))} Report: {workspace}/report/report.md"
    get_run_logger().info(message)
    return Completed(message=message, data=dict(figures))


def failed(error: NPOError, workspace: str | None) -> State[dict]:
    """The end of a run that could not go on."""
    message = in_the_ui(error)
    get_run_logger().error(message)
    return Failed(message=f"{message} Workspace: {workspace}" if workspace else message, data=error)


def result(figures: Mapping[str, Any]) -> str:
    """`Held-out 0.918 ± 0.016 after 200 steps.`"""
    if (final := figures["final"]) is None:
        return f"Not evaluated yet, after {figures['steps_done']} steps."
    low, high = of_score(final)
    return f"Held-out {final['pass_rate']:.3f} ± {(high - low) / 2:.3f} after {final['step']} steps."


def no_plateau(figures: Mapping[str, Any], plateau: Plateau | None) -> str | None:
    """Why nothing was rolled back; None where something was."""
    wanted = (plateau or Plateau()).model_dump(mode="json")
    mine = [d for d in figures["decisions"] if d["flow"] == PLATEAU and d["thresholds"] == wanted]
    return mine[-1]["reason"] if mine and not mine[-1]["intervene"] else None
