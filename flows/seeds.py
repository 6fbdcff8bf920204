"""A seed of its own for every run of a schedule, the same again when a run is tried again."""

from datetime import UTC

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from npo_core.config import RunConfig
from npo_core.seeds import derive_seed

MOST = 2**31  # what a form's field shows without rounding, and every library takes


def with_fresh_seed(config: RunConfig) -> RunConfig:
    """The configuration with a seed that follows from its own and from when the flow run was to start first.

    Prefect keeps that time through Retry, Pause and Resume, so a run that goes on has the seed it began with.
    """
    planned = flow_run.scheduled_start_time.astimezone(UTC).isoformat()
    seed = derive_seed("fresh", config.seed, planned) % MOST
    get_run_logger().info("Seed %d, fresh for the run of %s.", seed, planned)
    return config.model_copy(update={"seed": seed})
