"""Flow: look through finished runs, and start plateau-breakthrough on those that stand still; made for a schedule."""

from typing import Annotated

from prefect import flow
from prefect.logging import get_run_logger
from prefect.states import Completed, State
from pydantic import Field

from flows.conclusion import failed, one_sentence_each
from flows.form import Titled
from flows.naming import run_name
from npo_core.config import Trigger
from npo_core.errors import NPOError
from npo_core.recipes.runs import runs_folder
from npo_core.recipes.sweep import STILL, Looked, look_at_runs
from npo_core.stages.workspace import absolute
from tasks.artifacts import wait_until_published
from tasks.sweep import publish_sweep, start_breakthrough

NAME = "breakthrough-sweep"
LATER = "left for the next time"


@flow(name=NAME, flow_run_name=run_name)
def breakthrough_sweep(
    folder: str | None = None,
    at_most: Annotated[int, Field(ge=1)] = 1,
    trigger: Annotated[Trigger, Titled("trigger")] = Trigger(),  # noqa: B008, a frozen model
) -> State[str]:
    """Start plateau-breakthrough on finished runs that stand still and were not treated, one after the other.

    Args:
        folder: Folder with the runs right below it. Empty: $NPO_RUNS.
        at_most: Runs that it starts plateau-breakthrough on each time; the others are left for the next time.
        trigger: When a run counts as standing still; plateau-breakthrough is started with the same.
    """
    one_sentence_each()
    place = absolute(folder) if folder else runs_folder()
    try:
        rows = treat(look_at_runs(place, trigger), at_most, trigger)
        message = conclude(rows)
        publish_sweep(NAME, place, rows, message)
        wait_until_published()
    except NPOError as error:
        return failed(error, None)
    get_run_logger().info(message)
    return Completed(message=message, data=message)


def treat(found: list[Looked], at_most: int, trigger: Trigger) -> list[tuple[Looked, str]]:
    """Start plateau-breakthrough on as many runs as allowed; each run with what was done, in words."""
    rows, started = [], 0
    for looked in found:
        done = ""
        if looked.found == STILL:
            done = start_breakthrough(looked, trigger, only_look=started >= at_most) or LATER
            started += done.startswith("started")
        rows.append((looked, done))
    return rows


def conclude(rows: list[tuple[Looked, str]]) -> str:
    """What came of it in a sentence or two."""
    names = {word: [looked.name for looked, done in rows if done.startswith(word)] for word in ("started", LATER)}
    still = [looked for looked, _ in rows if looked.found == STILL]
    told = [f"Looked at {len(rows)} runs: {len(still)} stand still and were not treated."]
    told.append(f"Started plateau-breakthrough on {', '.join(names['started']) or 'none'}.")
    told += [f"Left for the next time: {', '.join(names[LATER])}."] if names[LATER] else []
    return " ".join([*told, f"Artifact: {NAME}"])
