"""Flow: AutoNPO (`npo_core/recipes/auto_npo.py`): training that decides by itself when to intervene."""

from prefect import flow

from flows.steps import follow
from flows.workspace import choose_workspace
from npo_core.config import RunConfig
from npo_core.names import AUTO_NPO


@flow(name=AUTO_NPO, flow_run_name="{config.name} seed {config.seed}")
def auto_npo(config: RunConfig, workspace: str | None = None, baseline: str | None = None) -> dict:
    """Train, and where the signals warn of a plateau, decide whether to roll back and replay guided.

    Args:
        config: Everything that decides the run; `auto` says when it intervenes and how far it rolls back.
        workspace: Folder or s3:// URI of the run. A run that was started there is taken up where it was. Empty: a new
            folder.
        baseline: Folder or s3:// URI of a GRPO run, to compare with in the report.
    """
    return follow(AUTO_NPO, config, choose_workspace(workspace, config.name), baseline)
