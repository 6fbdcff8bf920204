"""Flow: early-stage bootstrapping (`npo_core/recipes/early_bootstrap.py`), the main job."""

from typing import Annotated

from prefect import flow
from prefect.states import State

from flows.form import FORMS
from flows.naming import run_name
from flows.steps import follow
from npo_core.config import RunConfig
from npo_core.names import EARLY_BOOTSTRAP


@flow(name=EARLY_BOOTSTRAP, flow_run_name=run_name)
def early_bootstrap(
    workspace: str | None = None,
    baseline: str | None = None,
    fresh_seed: bool = False,
    config: Annotated[RunConfig, FORMS[EARLY_BOOTSTRAP]] = RunConfig(),  # noqa: B008, a frozen model
) -> State[dict]:
    """A short scout run from the base; its last checkpoint guides a restart from the base.

    Args:
        workspace: Folder or s3:// URI of the run. A run that was started there is taken up where it was. Empty: a new
            folder.
        baseline: Folder or s3:// URI of a GRPO run, to compare with in the report.
        fresh_seed: Another seed each time, from when the run was to start first; Retry keeps it. For schedules.
        config: Everything that decides the run; `bootstrap` says how far the scout runs.
    """
    return follow(EARLY_BOOTSTRAP, config, workspace, baseline, fresh_seed=fresh_seed)
