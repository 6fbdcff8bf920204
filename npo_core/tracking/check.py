"""Whether the trackers that a configuration names can be told, before any training."""

import importlib.util
import os
from pathlib import Path

from npo_core.config import Tracking
from npo_core.errors import ConfigError

PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow-skinny"}
OFFLINE = ("offline", "disabled", "dryrun")


def require_trackers(settings: Tracking) -> None:
    """Raises ConfigError where a library is not installed, or Weights & Biases has no key and is to be online."""
    missing = [name for name in settings.to if importlib.util.find_spec(name) is None]
    if missing:
        packages = " ".join(PACKAGES[name] for name in missing)
        raise ConfigError(
            f"tracking.to names {', '.join(missing)}, for which no library is installed here: run `pip install "
            f"{packages}` (all trackers: `pip install 'npo-core[tracking]'`), or take it out."
        )
    if "wandb" in settings.to and os.environ.get("WANDB_MODE") not in OFFLINE and not has_key():
        raise ConfigError(
            "tracking.to names wandb, and there is no key for it: run `wandb login`, set WANDB_API_KEY, or set "
            "WANDB_MODE=offline and upload later with `wandb sync`."
        )


def has_key() -> bool:
    """Whether there is a key of Weights & Biases: in the environment, or in a netrc file."""
    netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    return bool(os.environ.get("WANDB_API_KEY")) or netrc.is_file()
