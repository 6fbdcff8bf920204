"""The shipped configurations, with which `prefect deploy` fills the forms in the UI."""

from npo_core.config import load_config
from npo_core.shipped import presets, shipped


def read() -> dict[str, object]:
    """A build step of prefect.yaml: all presets by name (dots as dashes) with all fields, and the checkout."""
    forms = {name.replace(".", "-"): load_config(path).model_dump(mode="json") for name, path in presets().items()}
    return {**forms, "checkout": str(shipped())}
