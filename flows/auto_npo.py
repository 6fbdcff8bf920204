"""Flow: AutoNPO (`npo_core/recipes/auto_npo.py`): training that decides by itself when to intervene."""

from typing import Annotated

from prefect import flow
from prefect.states import State

from flows.form import FORMS
from flows.naming import run_name
from flows.steps import follow
from npo_core.config import RunConfig
from npo_core.names import AUTO_NPO


@flow(name=AUTO_NPO, flow_run_name=run_name)
def auto_npo(
    workspace: str | None = None,
    baseline: str | None = None,
    fresh_seed: bool = False,
    config: Annotated[RunConfig, FORMS[AUTO_NPO]] = RunConfig(),  # noqa: B008, a frozen model
) -> State[dict]:
    """Train, and where the signals warn of a plateau, decide whether to intervene, and how.

    With method auto-npo it weighs rollbacks alone, as published.

    Args:
        workspace: Folder or s3:// URI of the run. A run that was started there is taken up where it was. Empty: a new
            folder.
        baseline: Folder or s3:// URI of a GRPO run, to compare with in the report.
        fresh_seed: Another seed each time, from when the run was to start first; Retry keeps it. For schedules.
        config: Everything that decides the run; `method` and `auto` say when it intervenes and what it weighs.
    """
    return follow(AUTO_NPO, config, workspace, baseline, fresh_seed=fresh_seed)
