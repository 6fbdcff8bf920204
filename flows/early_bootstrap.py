"""Flow: early-stage bootstrapping (`npo_core/recipes/early_bootstrap.py`), the main job."""

from prefect import flow

from flows.steps import follow
from flows.workspace import choose_workspace
from npo_core.config import RunConfig
from npo_core.names import EARLY_BOOTSTRAP


@flow(name=EARLY_BOOTSTRAP, flow_run_name="{config.name} seed {config.seed}")
def early_bootstrap(config: RunConfig, workspace: str | None = None, baseline: str | None = None) -> dict:
    """A short scout run from the base; its last checkpoint guides a restart from the base.

    Args:
        config: Everything that decides the run; `bootstrap` says how far the scout runs.
        workspace: Folder or s3:// URI of the run. A run that was started there is taken up where it was. Empty: a new
            folder.
        baseline: Folder or s3:// URI of a GRPO run, to compare with in the report.
    """
    return follow(EARLY_BOOTSTRAP, config, choose_workspace(workspace, config.name), baseline)
