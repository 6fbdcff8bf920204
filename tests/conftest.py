"""What tests of several folders need."""

import os
from pathlib import Path

import pytest

VLLM = Path(os.environ.get("NPO_VLLM_PYTHON", Path(__file__).parents[1] / ".venv-vllm/bin/python"))


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter of the environment with vLLM."""
    if not VLLM.exists():
        missing = f"{VLLM} is not there: `make setup-vllm` makes it"
        if os.environ.get("NPO_NEED_PROGRAMS"):
            pytest.fail(missing)
        pytest.skip(missing)
    return str(VLLM)
