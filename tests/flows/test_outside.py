"""A flow run whose state somebody else changes while it trains: it ends its stage and leaves that state as it is."""

import pytest
from prefect.runtime import flow_run

from npo_core.errors import StageError
from tasks import outside, perform
from tests.flows.conftest import ask


def test_a_run_that_is_scheduled_again_stays_so(start, environment, tmp_path, monkeypatch):
    """As an evicted pod's is: SIGTERM, and the server has it in AwaitingRetry before its process ends."""
    monkeypatch.setattr(outside, "LOOK", 0.05)
    begun = []

    class Progress(perform.Progress):
        def __call__(self, event: dict) -> None:
            super().__call__(event)
            if self.label.startswith("train") and not begun:
                begun.append(flow_run.id)
                state = {"type": "SCHEDULED", "name": "AwaitingRetry"}
                ask(environment, f"flow_runs/{flow_run.id}/set_state", {"state": state, "force": True})

    monkeypatch.setattr(perform, "Progress", Progress)
    with pytest.raises(StageError, match="paused or ended in the Prefect UI: start the same command again"):
        start("grpo", tmp_path / "run", {"training.steps": 4000, "evaluation.every": 4000})
    state = ask(environment, f"flow_runs/{begun[0]}")["state"]
    assert state["name"] == "AwaitingRetry"
    wanted = {"flow_runs": {"id": {"any_": begun}}}
    tasks = {task["name"]: task["state_type"] for task in ask(environment, "task_runs/filter", wanted)}
    assert tasks["train main to 4000"] == "CANCELLED"
