"""Flow: early-stage bootstrapping (paper, section 3.1), the main job.

scout -> snapshot -> generate guidance -> roll back -> replay guided -> go on unguided -> evaluate -> report
"""

from prefect import flow

from npo_core.config import RunConfig
from tasks.base import make_base
from tasks.evaluate import evaluate
from tasks.guide import generate_guidance
from tasks.report import report
from tasks.rollback import open_branch
from tasks.run import open_run
from tasks.steps import Steps


@flow(name="early-bootstrap", flow_run_name="{config.name}")
def early_bootstrap(config: RunConfig, workspace: str, baseline: str | None = None) -> dict:
    """A short scout run from the base; its last checkpoint guides a restart from the base.

    Args:
        config: everything that decides the run; `bootstrap` says how far the scout runs.
        workspace: folder or s3:// URI of the run; a started run is taken up where it was.
        baseline: workspace of a GRPO run to compare with in the report.
    """
    plan = config.bootstrap
    with open_run(config, workspace) as run:
        do = Steps(run)
        base = do(make_base, run.base(), config.name).result["snapshot"]

        do(open_branch, run, "scout", at=base, reason="scout")
        scout = do.train("scout", start=base, until=plan.scout_steps)

        guides = [scout.snapshots[step] for step in plan.guide_steps] if plan.guided else []
        cache = None
        if guides:
            spec = run.guide(guides=guides, rollback=base, scout=scout.segment)
            cache = do(generate_guidance, spec, config.name).result["cache"]

        do(open_branch, run, "replay", at=base, reason="rollback", guide=guides, cache=cache)
        replay = do.train("replay", start=base, until=plan.scout_steps, cache=cache, fresh=plan.fresh_randomness)
        parts = [replay]
        if config.training.steps > plan.scout_steps:
            parts.append(do.train("replay", start=replay.end, until=config.training.steps, fresh=plan.fresh_randomness))

        do(evaluate, run.evaluate(do.evaluated(base, *parts)), config.name)
        return do(report, run, baseline)
