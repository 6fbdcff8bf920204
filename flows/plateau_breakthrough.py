"""Flow: late-stage plateau breakthrough (`npo_core/recipes/plateau_breakthrough.py`), on any run."""

from typing import Annotated

from prefect import flow
from prefect.states import State

from flows.form import FORMS, Titled
from flows.naming import run_name
from flows.steps import follow
from npo_core.config import Plateau, RunConfig
from npo_core.names import PLATEAU


@flow(name=PLATEAU, flow_run_name=run_name)
def plateau_breakthrough(
    workspace: str | None = None,
    baseline: str | None = None,
    plateau: Annotated[Plateau, Titled("plateau")] = Plateau(),  # noqa: B008, a frozen model
    config: Annotated[RunConfig, FORMS[PLATEAU]] | None = None,
) -> State[dict]:
    """Roll a run back to where its plateau began and replay it guided by its own later snapshot.

    The same settings on the same run are the same intervention, taken up where it was.

    Args:
        workspace: Folder or s3:// URI of the run. Empty: a new folder, where plain GRPO is trained first.
        baseline: Folder or s3:// URI of another run, to compare with in the report.
        plateau: Where to roll back to and which snapshot guides; what is left out is found.
        config: Everything that decides the run. Empty: the run's own; needed where the workspace holds none yet.
    """
    return follow(PLATEAU, config, workspace, baseline, plateau)
