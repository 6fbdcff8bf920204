"""The shipped configurations, with which `prefect deploy` fills the forms in the UI."""

from flows.form import of_presets
from npo_core.config import load_config
from npo_core.shipped import presets, shipped


def read() -> dict[str, object]:
    """A build step of prefect.yaml: for each flow all presets (dots as dashes) as its form has them; the checkout."""
    loaded = {name.replace(".", "-"): load_config(path) for name, path in presets().items()}
    return {**of_presets(loaded), "checkout": str(shipped())}
