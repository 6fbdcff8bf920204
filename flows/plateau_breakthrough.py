"""Flow: late-stage plateau breakthrough (`npo_core/recipes/plateau_breakthrough.py`), on any run."""

from prefect import flow
from prefect.runtime import flow_run

from flows.steps import follow
from flows.workspace import choose_workspace
from npo_core.config import Plateau, RunConfig
from npo_core.errors import ConfigError
from npo_core.names import PLATEAU
from npo_core.stages.workspace import Workspace


def run_name() -> str:
    """The workspace's own name, as the configuration may be left out."""
    workspace = flow_run.parameters.get("workspace") or "a new run"
    return f"plateau of {workspace.rstrip('/').rsplit('/', 1)[-1]}"


@flow(name=PLATEAU, flow_run_name=run_name)
def plateau_breakthrough(
    workspace: str | None = None,
    plateau: Plateau = Plateau(),  # noqa: B008, a frozen model
    config: RunConfig | None = None,
    baseline: str | None = None,
) -> dict:
    """Roll a run back to where its plateau began and replay it guided by its own later snapshot.

    The same settings on the same run are the same intervention, taken up where it was.

    Args:
        workspace: Folder or s3:// URI of the run. Empty: a new folder, where plain GRPO is trained first.
        plateau: Where to roll back to and which snapshot guides; what is left out is found.
        config: Everything that decides the run. Empty: the run's own; needed where the workspace holds none yet.
        baseline: Folder or s3:// URI of another run, to compare with in the report.
    """
    if not workspace and config is None:
        raise ConfigError("plateau-breakthrough needs a workspace with a run, or a config to train one: give either.")
    place = choose_workspace(workspace, config.name if config else "")
    return follow(PLATEAU, config or Workspace(place).config(), place, baseline, plateau)
