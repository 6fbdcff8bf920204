"""Flow: plain GRPO, the baseline of every claim."""

from prefect import flow

from flows.workspace import choose_workspace
from npo_core.config import RunConfig
from tasks.announce import announce
from tasks.base import make_base
from tasks.evaluate import evaluate
from tasks.plan import check_plan
from tasks.report import report
from tasks.rollback import open_branch
from tasks.run import open_run
from tasks.steps import Steps


@flow(name="grpo", flow_run_name="{config.name} seed {config.seed}")
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
    check_plan(config, place, "grpo")
    with open_run(config, place) as run:
        do = Steps(run)
        base = do(make_base, run.base(), config.name).result["snapshot"]
        do(open_branch, run, "main", at=base, reason="GRPO")
        do.train("main", start=base, until=config.training.steps)
        do(evaluate, run.evaluate(do.evaluated("main")), config.name)
        figures = do(report, run, baseline)
    if announce_plateau:
        do(announce, run, "main")
    return figures
