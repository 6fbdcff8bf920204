"""What a configuration may have run on a shared machine: the environment of a worker says, for a form must not.

`NPO_ALLOWED_MODULES` lists packages or modules, separated by commas, that users' functions and sources may come from;
`NPO_ALLOWED_INTERPRETERS` lists interpreters by their whole paths, separated like PATH. Not set: anything may run, as
on a machine of one's own. Set to nothing: nothing may.
"""

import os

from npo_core.errors import ConfigError

MODULES, INTERPRETERS = "NPO_ALLOWED_MODULES", "NPO_ALLOWED_INTERPRETERS"


def listed(variable: str, separator: str) -> list[str] | None:
    """The entries of a list in the environment; None where it is not set."""
    text = os.environ.get(variable)
    return None if text is None else [entry.strip() for entry in text.split(separator) if entry.strip()]


def require_module(module: str, path: str, what: str = "The verifier's function") -> None:
    """Raises ConfigError unless users' code may come from a module; `path` is how it was named, `what` it is."""
    allowed = listed(MODULES, ",")
    if allowed is None or any(f"{module}.".startswith(f"{entry}.") for entry in allowed):
        return
    raise ConfigError(
        f"{what} {path} comes from the module {module}, which this machine does not allow "
        f"({MODULES}: {', '.join(allowed) or 'none'}): take one of an allowed module, or ask whoever runs the "
        "worker to add this one."
    )


def require_interpreter(python: str) -> None:
    """Raises ConfigError unless the interpreter of `engine.python` may be started, by exactly this path."""
    allowed = listed(INTERPRETERS, os.pathsep)
    if allowed is None or not python or python in allowed:
        return
    raise ConfigError(
        f"engine.python = {python} is no interpreter that this machine allows ({INTERPRETERS}: "
        f"{', '.join(allowed) or 'none'}): name an allowed one, leave it empty for the worker's own, or ask whoever "
        "runs the worker to add this one."
    )
