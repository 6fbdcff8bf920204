"""The functions that verify, as a run was begun with them: another function is another reward, by whatever name."""

from npo_core.config import RunConfig
from npo_core.errors import ConfigError
from npo_core.names import FUNCTIONS_FILE
from npo_core.problems.functions import FunctionSource
from npo_core.stages.workspace import Workspace

Sources = dict[str, FunctionSource]  # by a function's path


def require_same_functions(workspace: Workspace, config: RunConfig, now: Sources) -> list[str]:
    """Compare with what the workspace holds; what changed, in sentences. Comments and blank lines do not count.

    Raises:
        ConfigError: a function's module is another one since something was trained, and that is not accepted.
    """
    then = workspace.store.read_json(FUNCTIONS_FILE, default={}) if workspace.store.list("segments") else {}
    changed = [
        f"The module of the verifier's function {path} ({source['file']}) changed since the run began"
        for path, source in now.items()
        if path in then and then[path]["digest"] != source["digest"]
    ]
    if changed and not config.execution.accept_changed_functions:
        raise ConfigError(
            f"{changed[0]}, so that rewards before and after would differ: put it back, give another workspace, or go "
            "on with --set execution.accept_changed_functions=true."
        )
    return changed


def keep_functions(workspace: Workspace, config: RunConfig, now: Sources) -> None:
    """Note the sources where the run begins, or where their change was accepted. Raises as above."""
    changed = require_same_functions(workspace, config, now)
    if now and (changed or not workspace.store.list("segments") or not workspace.store.exists(FUNCTIONS_FILE)):
        workspace.store.write_json(FUNCTIONS_FILE, now)
