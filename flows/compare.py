"""Flow: any two or more runs side by side, as an artifact."""

from prefect import flow
from prefect.logging import get_run_logger
from prefect.states import Completed, State

from flows.conclusion import failed, one_sentence_each
from flows.naming import run_name
from npo_core.errors import NPOError
from npo_core.stages.workspace import absolute
from tasks.artifacts import wait_until_published
from tasks.overview import publish_comparison, publish_runs

KEY = "compare"


@flow(name="compare", flow_run_name=run_name)
def compare(workspaces: list[str]) -> State[str]:
    """Show runs side by side: what they reached and cost, their curves, and the settings in which they differ.

    Args:
        workspaces: Folders or s3:// URIs of two or more runs, finished or not.
    """
    one_sentence_each()
    try:
        message = publish_comparison([absolute(uri) for uri in workspaces], KEY)
        publish_runs()
        wait_until_published()
    except NPOError as error:
        return failed(error, None)
    message += f" Artifact: {KEY}"
    get_run_logger().info(message)
    return Completed(message=message, data=message)
