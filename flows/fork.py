"""Flow: run again from a step with changed settings (`npo_core/recipes/fork.py`), in a workspace of its own."""

from typing import Annotated, Any

from prefect import flow
from prefect.states import State
from pydantic import Field

from flows.conclusion import failed, one_sentence_each
from flows.naming import run_name
from flows.steps import follow
from npo_core.errors import NPOError
from npo_core.names import FORK
from npo_core.recipes.forking import Request
from tasks.fork import make_fork

Step = Annotated[int, Field(ge=0)]


@flow(name=FORK, flow_run_name=run_name)
def fork(
    origin: str,
    at: Step,
    changes: dict[str, Any] = {},  # noqa: B006, Prefect copies it
    branch: str | None = None,
    workspace: str | None = None,
    baseline: str | None = None,
) -> State[dict]:
    """Go on from a step of a run with changed settings; what stays the same is shared.

    It trains up to `training.steps` as plain GRPO, guided where the run before was.

    Args:
        origin: Folder or s3:// URI of the run to fork, finished or not.
        at: Step whose snapshot both runs share.
        changes: Settings that change, by the names that files have, for example {"training.learning_rate": 0.0001}.
        branch: Branch of the run. Empty: its final one.
        workspace: Folder or s3:// URI of the fork. Empty: a folder of $NPO_RUNS, the same for the same fork.
        baseline: Folder or s3:// URI of another run, to compare with in the report; the run before, for example.
    """
    one_sentence_each()
    try:
        place = make_fork(Request(origin, at, changes, branch or None), workspace or None)
    except NPOError as error:
        return failed(error, None)
    return follow(FORK, None, place, baseline)
