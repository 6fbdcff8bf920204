"""Flow: plain GRPO (`npo_core/recipes/grpo.py`)."""

from prefect import flow

from flows.steps import call, follow
from flows.workspace import choose_workspace
from npo_core.config import RunConfig
from npo_core.names import GRPO
from npo_core.recipes.run import Run
from npo_core.stages.workspace import Workspace
from tasks.announce import announce


@flow(name=GRPO, flow_run_name="{config.name} seed {config.seed}")
def grpo(
    config: RunConfig, workspace: str | None = None, baseline: str | None = None, announce_plateau: bool = False
) -> dict:
    """Train from the base to `training.steps`, evaluate, report.

    Args:
        config: Everything that decides the run.
        workspace: Folder or s3:// URI of the run. A run that was started there is taken up where it was. Empty: a new
            folder.
        baseline: Folder or s3:// URI of another run, to compare with in the report.
        announce_plateau: At the end of a run that reached a plateau, start plateau-breakthrough on it, by the event
            npo.plateau.detected.
    """
    place = choose_workspace(workspace, config.name)
    figures = follow(GRPO, config, place, baseline)
    if announce_plateau:
        call(announce, config.execution, Run(config, Workspace(place)), "main")
    return figures
