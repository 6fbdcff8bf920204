"""Task: announce a plateau as an event, which may start plateau-breakthrough on the run."""

from prefect import task
from prefect.events import emit_event
from prefect.logging import get_run_logger

from npo_core.config import Plateau
from npo_core.control.path import path_rows
from npo_core.control.plateau import find_plateau
from npo_core.recipes.run import Run

EVENT = "npo.plateau.detected"


@task(name="announce-plateau", task_run_name="announce a plateau")
def announce(run: Run, branch: str) -> bool:
    """Emit the event where the branch's signals say so; whether they do.

    Called once the workspace is free again, for whoever hears the event works on it.
    """
    found = find_plateau(path_rows(run.workspace.timeline, branch, run.config.training.steps), Plateau().trigger)
    if found is None:
        get_run_logger().info("No plateau: nothing is announced.")
        return False
    resource = {"prefect.resource.id": f"npo.workspace.{run.workspace.uri}", "prefect.resource.name": run.config.name}
    emit_event(EVENT, resource=resource, payload={"workspace": run.workspace.uri, "began": found.began})
    get_run_logger().info("A plateau that began at update %d is announced as %s.", found.began, EVENT)
    return True
