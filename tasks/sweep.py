"""Task: start plateau-breakthrough on a run, once for each state of it; and the artifact of a sweep."""

from collections.abc import Sequence

from prefect import task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.exceptions import ObjectNotFound

from npo_core.config import Trigger
from npo_core.errors import ConfigError
from npo_core.names import PLATEAU
from npo_core.recipes.sweep import Looked, sweep_table
from npo_core.reporting.tables import markdown
from tasks.artifacts import publish

DEPLOYMENT = f"{PLATEAU}/{PLATEAU}"


@task(name="start-breakthrough", task_run_name="start plateau-breakthrough on {looked.name}")
def start_breakthrough(looked: Looked, trigger: Trigger, only_look: bool) -> str:
    """Create a run of the deployment, which waits for its turn; what was done, in words.

    The key of the flow run is workspace and snapshot: whatever became of it, it is not started twice. Empty where
    nothing was started before and `only_look` says that nothing is to be.

    Raises:
        ConfigError: the server has no such deployment.
    """
    key = f"sweep {looked.workspace} {looked.tip}"
    wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
    with get_client(sync_client=True) as client:
        for before in client.read_flow_runs(flow_run_filter=wanted, limit=1):
            return f"before: run '{before.name}' is {before.state_name or 'there'}"
        if only_look:
            return ""
        try:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            raise ConfigError(
                f"There is no deployment {DEPLOYMENT} on this server: create it with `prefect deploy --all`, or start "
                "the server with `npo serve`."
            ) from None
        parameters = {"workspace": looked.workspace, "plateau": {"trigger": trigger.model_dump(mode="json")}}
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters, idempotency_key=key)
    return f"started: run '{run.name}'"


def publish_sweep(key: str, folder: str, rows: Sequence[tuple[Looked, str]], message: str) -> None:
    """What a sweep found and did, as an artifact."""
    publish(key, message, f"## Runs in `{folder}`", message, markdown(sweep_table(folder, list(rows))))
