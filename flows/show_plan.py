"""What `npo plan` prints: data as plain values, and how it is shown."""

from math import ceil
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from flows.show import Data, render

if TYPE_CHECKING:
    from npo_core.config import RunConfig
    from npo_core.timeline import Store


def plan_data(config: "RunConfig", flow: str, workspace: str | None, *, machine: Data, **settings: Any) -> Data:
    """The plan of a flow; `machine` names GPUs in place of those that are here.

    Raises:
        ConfigError: there is no such flow or GPU.
    """
    from npo_core.planning import look, make_plan, model_size
    from npo_core.stages.forked import environment
    from npo_core.timeline import Store

    store = Store(workspace) if workspace else None
    folder = store.local("") if store is not None and store.is_local else None
    found = look(config, folder, measure=settings["tokens_per_second"] is None, **machine)
    size = model_size(config, environment(config.execution))
    if settings["completion_tokens"] is None and store is not None:
        settings["completion_tokens"] = measured_length(store)
    return make_plan(config, size, found, flow, folder=folder, **settings).as_dict()


def measured_length(store: "Store") -> int | None:
    """Mean tokens of a completion in all finished segments; None where there are none."""
    from npo_core.timeline import Timeline
    from npo_core.timeline.segments import read_steps

    columns = [read_steps(store, segment)["completion_length"] for segment in Timeline(store).segments()]
    lengths = [length for column in columns for length in column.to_pylist() if length is not None]
    return ceil(sum(lengths) / len(lengths)) if lengths else None


def plan(data: Data, console: Console) -> None:
    from npo_core.reporting.plan_tables import conclusion, plan_tables

    for table in plan_tables(data):
        render(table, console)
    for title, style in (("assumptions", "dim"), ("unknown", "yellow"), ("changes", "red")):
        for sentence in data[title]:
            console.print(Text(sentence, style), soft_wrap=True)
    console.print(Text(conclusion(data), "bold"))
