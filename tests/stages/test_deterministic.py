"""`execution.deterministic`: kernels that add in a fixed order, on a GPU alone."""

import pytest
import torch

from npo_core.config import Execution
from npo_core.stages.execute import prepare_device
from npo_core.stages.forked import environment


@pytest.mark.parametrize(
    ("device", "asked", "on"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_it_is_set_where_it_is_asked_for(device, asked, on, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    execution = Execution(device=device, deterministic=asked)
    threads, filled = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    try:
        assert prepare_device(execution) == device
        assert torch.are_deterministic_algorithms_enabled() == on
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.set_num_threads(threads)
    assert ("CUBLAS_WORKSPACE_CONFIG" in environment(execution)) == asked
