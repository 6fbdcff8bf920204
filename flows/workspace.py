"""Where a run lives when its form says nothing: a folder of its own, the same again when the flow run is retried."""

from uuid import uuid4

from prefect.runtime import flow_run

from npo_core.recipes.runs import runs_folder
from npo_core.stages.workspace import absolute


def choose_workspace(given: str | None, name: str) -> str:
    """The workspace that was given, or a new one under $NPO_RUNS (default: $NPO_HOME/runs).

    A given folder that is not absolute is taken from the folder that the flow runs in: a worker's is the checkout.
    A new one is named after the run and the end of its flow run's id, so that Retry finds what was finished. The id
    begins with the time, which runs of one schedule share.
    """
    if given:
        return absolute(given)
    return f"{runs_folder()}/{name}-{(flow_run.id or uuid4().hex)[-8:]}"
