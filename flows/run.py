"""Start a flow from a terminal: with the Prefect server that is configured, or a local one for the time of the run."""

from importlib import import_module
from typing import Any

from flows.server import local_server
from npo_core.config import Plateau, RunConfig
from npo_core.errors import ConfigError, StageError
from npo_core.names import FORK, RECIPE_NAMES
from npo_core.recipes.local import run_local
from npo_core.recipes.progress import Progress
from npo_core.stages.execute import STOPPED
from npo_core.stages.forked import fork_server, forks
from npo_core.stages.workspace import Workspace, absolute

PAUSED = "The run was paused or ended in the Prefect UI: start the same command again to go on from its last snapshot."
FLOWS = {name: name.replace("-", "_") for name in (*RECIPE_NAMES, FORK)}  # module, and function in it


def run_flow(
    flow_name: str, config: RunConfig | None, workspace: str, baseline: str | None = None, **settings: Any
) -> dict:
    """Run a flow to its end in this process and return its report; `settings` are parameters of that flow alone.

    Raises:
        NPOError: bad input, or a stage that failed; whatever was finished stays.
    """
    if flow_name not in FLOWS:
        raise ConfigError(f"There is no flow {flow_name}: choose one of {', '.join(FLOWS)}.")
    execution = config.execution if config else Workspace(absolute(workspace)).config().execution
    if forks(execution):
        fork_server(execution)  # imports torch while the server starts
    name = FLOWS[flow_name]
    with local_server(meanwhile=lambda: import_module(f"flows.{name}")) as server:
        from prefect.exceptions import Abort, Pause
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        flow = getattr(import_module(f"flows.{name}"), name)
        place, beside = absolute(workspace), absolute(baseline) if baseline else None
        try:
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # it costs a second at the end of a run
                given = settings if flow_name == FORK else {"config": config, **settings}
                return flow(workspace=place, baseline=beside, **given)
        except (Abort, Pause):
            raise StageError(PAUSED, exit_code=STOPPED) from None
        except Exception:
            if not server.gone:
                raise
            return without_server(flow_name, config, place, beside, **settings)  # whatever it was, it is raised again
        finally:
            if not server.gone:
                send_pending()


def without_server(
    recipe: str,
    config: RunConfig | None,
    workspace: str,
    baseline: str | None,
    plateau: Plateau | None = None,
    **_: Any,
) -> dict:
    """Go on with a run whose local server is gone for good: the workspace has all that was finished."""
    return dict(run_local(recipe, config or Workspace(workspace).config(), workspace, baseline, plateau, Progress))


def send_pending(seconds: float = 10.0) -> None:
    """Deliver logs and events while the server is still there; at exit it would be gone, and Prefect waits for it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=seconds, at_exit=False)
