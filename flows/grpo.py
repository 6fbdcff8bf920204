"""Flow: plain GRPO (`npo_core/recipes/grpo.py`)."""

from typing import Annotated

from prefect import flow
from prefect.states import State

from flows.form import FORMS
from flows.naming import run_name
from flows.steps import follow
from npo_core.config import RunConfig
from npo_core.names import GRPO


@flow(name=GRPO, flow_run_name=run_name)
def grpo(
    workspace: str | None = None,
    baseline: str | None = None,
    announce_plateau: bool = False,
    fresh_seed: bool = False,
    config: Annotated[RunConfig, FORMS[GRPO]] = RunConfig(),  # noqa: B008, a frozen model
) -> State[dict]:
    """Train from the base to `training.steps`, evaluate, report.

    Args:
        workspace: Folder or s3:// URI of the run. A run that was started there is taken up where it was. Empty: a new
            folder.
        baseline: Folder or s3:// URI of another run, to compare with in the report.
        announce_plateau: At the end of a run that reached a plateau, start plateau-breakthrough on it, by the event
            npo.plateau.detected.
        fresh_seed: Another seed each time, from when the run was to start first; Retry keeps it. For schedules.
        config: Everything that decides the run.
    """
    return follow(GRPO, config, workspace, baseline, announce_plateau=announce_plateau, fresh_seed=fresh_seed)
