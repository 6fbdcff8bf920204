"""Where a run reports to besides its workspace."""

from typing import Literal

from pydantic import Field

from npo_core.config.closed import Closed

TrackerName = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class Tracking(Closed):
    """Experiment trackers. Addresses and keys of servers come from the environment, as each library reads them."""

    to: tuple[TrackerName, ...] = Field((), description="trackers that are told of the run; none: nobody")
    project: str = Field("npo", pattern=r"^[A-Za-z0-9_-]+$", description="the trackers' project, or experiment")
    folder: str | None = Field(
        None,
        description="folder for what is written to this machine; none: `tracking` in the workspace, and trackio's own",
    )
