"""The functions that verify, as a run was begun with them: another function is another reward, by whatever name."""

from npo_core.config import RunConfig
from npo_core.errors import ConfigError
from npo_core.names import FUNCTIONS_FILE
from npo_core.problems.functions import FunctionSource
from npo_core.stages.preflight import sources_of
from npo_core.stages.specs import GuideSpec, Spec, TrainSpec
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


def require_functions_of_run(spec: Spec) -> None:
    """On a machine that joins: refuse to verify with other functions than those that the run was begun with.

    Guidance and training are verified on each machine; other stages verify on the first.

    Raises:
        ConfigError: the module of one is another one here, or it cannot be imported.
    """
    if not isinstance(spec, GuideSpec | TrainSpec):
        return
    then = Workspace(spec.workspace).store.read_json(FUNCTIONS_FILE, default={})
    opinion = None if spec.guidance is None else spec.guidance.verifier
    for path, source in sources_of(spec.problems, opinion).items():
        if path in then and (source is None or source["digest"] != then[path]["digest"]):
            raise ConfigError(
                f"The module of the verifier's function {path} ({source['file'] if source else 'without a source'}) is "
                f"another one than the run's ({then[path]['file']} on the first machine): give all machines of "
                "execution.nodes the same file and the same version of Python."
            )
