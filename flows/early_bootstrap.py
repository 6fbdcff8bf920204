"""Flow: early-stage bootstrapping (paper, section 3.1), the main job.

scout -> snapshot -> generate guidance -> roll back -> replay guided -> go on unguided -> evaluate -> report
"""

from prefect import flow

from flows.workspace import choose_workspace
from npo_core.config import RunConfig
from tasks.base import make_base
from tasks.evaluate import evaluate
from tasks.guide import generate_guidance
from tasks.plan import check_plan
from tasks.report import report
from tasks.rollback import open_branch
from tasks.run import open_run
from tasks.steps import Steps, Trained


@flow(name="early-bootstrap", flow_run_name="{config.name} seed {config.seed}")
def early_bootstrap(config: RunConfig, workspace: str | None = None, baseline: str | None = None) -> dict:
    """A short scout run from the base; its last checkpoint guides a restart from the base.

    Args:
        config: Everything that decides the run; `bootstrap` says how far the scout runs.
        workspace: Folder or s3:// URI of the run. A run that was started there is taken up where it was. Empty: a new
            folder.
        baseline: Folder or s3:// URI of a GRPO run, to compare with in the report.
    """
    place = choose_workspace(workspace, config.name)
    check_plan(config, place, "early-bootstrap")
    with open_run(config, place) as run:
        do = Steps(run)
        base = do(make_base, run.base(), config.name).result["snapshot"]
        replay = bootstrap(do, base)
        if config.training.steps > replay.step:
            fresh = int(config.bootstrap.fresh_randomness)
            do.train("replay", start=replay.end, until=config.training.steps, fresh=fresh)
        do(evaluate, run.evaluate(do.evaluated("replay")), config.name)
        return do(report, run, baseline)


def bootstrap(do: Steps, base: str, watched: bool = False) -> Trained:
    """Train a scout, let it guide, roll back to the base, and replay the scout's steps guided; the replay.

    `watched` keeps AutoNPO's signals and mistake pool on the way; no warning ends these segments.
    """
    run, plan = do.run, do.run.config.bootstrap
    quiet_until = plan.scout_steps if watched else None
    do(open_branch, run, "scout", at=base, reason="scout")
    scout = do.train("scout", start=base, until=plan.scout_steps, quiet_until=quiet_until)

    guides = [scout.snapshots[step] for step in plan.guide_steps] if plan.guided else []
    cache = None
    if guides:
        spec = run.guide(guides=guides, rollback=base, segments=[scout.segment])
        cache = do(generate_guidance, spec, run.config.name).result["cache"]

    do(open_branch, run, "replay", at=base, reason="rollback", guide=guides, cache=cache)
    return do.train(
        "replay",
        start=base,
        until=plan.scout_steps,
        cache=cache,
        fresh=int(plan.fresh_randomness),
        quiet_until=quiet_until,
    )
