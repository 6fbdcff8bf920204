"""The shipped configurations, with which `prefect deploy` fills the forms in the UI."""

from flows.form import FORMS
from npo_core.config import load_config
from npo_core.shipped import presets, shipped


def read() -> dict[str, object]:
    """A build step of prefect.yaml: for each flow all presets (dots as dashes) as its form has them; the checkout."""
    filled = {
        flow: {name.replace(".", "-"): form.fill(load_config(path, recipe=flow)) for name, path in presets().items()}
        for flow, form in FORMS.items()
    }
    return {**filled, "checkout": str(shipped())}
