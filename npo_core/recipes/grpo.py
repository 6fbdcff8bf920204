"""Plain GRPO, the baseline of every claim."""

from npo_core.recipes.steps import Report, Steps


def grpo(do: Steps) -> Report:
    """Train from the base to `training.steps`, evaluate, report."""
    base = do.base()
    do.branch("main", at=base, reason="GRPO")
    do.train("main", start=base, until=do.config.training.steps)
    do.evaluate("main")
    return do.report()
