"""The shipped configurations, with which `prefect deploy` fills the forms in the UI."""

from pathlib import Path

from npo_core.config import load_config

CHECKOUT = Path(__file__).parents[1]
FOLDER = CHECKOUT / "deployments" / "configs"


def read() -> dict[str, object]:
    """A build step of prefect.yaml: all presets by name (dots as dashes) with all fields, and the checkout."""
    presets = {
        path.stem.replace(".", "-"): load_config(path).model_dump(mode="json") for path in sorted(FOLDER.glob("*.yaml"))
    }
    return {**presets, "checkout": str(CHECKOUT)}
