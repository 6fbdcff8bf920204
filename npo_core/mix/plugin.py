"""Sources of the user's own, by import path."""

import importlib

from npo_core import config
from npo_core.allowed import require_module
from npo_core.errors import ConfigError
from npo_core.mix.source import Source

PARTS = ("name", "find", "learn", "state", "restore")


def plugin(chosen: config.PluginSource) -> Source:
    """A source of the user's. Raises ConfigError where it is not allowed here, or with what is wrong with it."""
    module, _, name = chosen.path.partition(":")
    require_module(module, chosen.path, "The source")
    try:
        source = getattr(importlib.import_module(module), name)(**chosen.settings)
    except Exception as error:
        raise ConfigError(
            f"mix.sources: {chosen.path} cannot be made with {chosen.settings} ({type(error).__name__}: {error}): "
            "name a class in a module that can be imported here, and arguments that it takes."
        ) from error
    require_module(type(source).__module__, chosen.path, "The source")  # `mine:Popen` is not mine's
    if missing := [part for part in PARTS if not hasattr(source, part)]:
        raise ConfigError(
            f"mix.sources: {chosen.path} has no {', '.join(missing)}: a source has what npo_core.mix.Source says; "
            "inherit npo_core.mix.Stateless where it learns nothing."
        )
    return source
