"""What tests of several folders need."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from npo_core.process import own_progress_lock

# The same examples each time, however slow the machine.
settings.register_profile(
    "npo", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("npo")
own_progress_lock()  # this process is forked, and forks are killed
os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"  # who forgets to name a server gets none
VLLM = Path(os.environ.get("NPO_VLLM_PYTHON", Path(__file__).parents[1] / ".venv-vllm/bin/python"))


# What takes longest begins, so that no process has to wait for another at the end.
LONG = ("flows", "product", "browser", "stages", "training", "recipes", "models", "engines", "deployments")
# Files that share a server or a finished run go to one process; all others, to whichever is free.
SHARING = ("flows", "browser", "stages", "training", "recipes", "models", "engines", "deployments")
# These share less than they take: one process with all of them would be the last to end.
ALONE = ("test_flows_on_vllm.py", "test_guide.py", "test_local_server.py", "test_presets.py", "test_two_processes.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(name) if (name := item.path.parent.name) in LONG else len(LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Of `-n 2 --dist loadfile --no-loadscope-reorder`: some folders as if they were a file."""
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrFolder(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.split("::")[0])
            shares = file.parent.name in SHARING and file.name not in ALONE
            return str(file.parent if shares else file)

    return ByFileOrFolder(config, log)


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter of the environment with vLLM."""
    if not VLLM.exists():
        missing = f"{VLLM} is not there: `make setup-vllm` makes it"
        if os.environ.get("NPO_NEED_PROGRAMS"):
            pytest.fail(missing)
        pytest.skip(missing)
    return str(VLLM)


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of a Prefect server, made once for all test processes: migrations cost a new one 15 seconds."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prefect"
    folder.mkdir(exist_ok=True)
    made = folder / "migrated.db"
    with FileLock(folder / "lock"):
        if not made.exists():
            home = {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
            subprocess.run(command, env=os.environ | home, check=True, capture_output=True)
            assert not (folder / "prefect.db-wal").exists()
            shutil.move(folder / "prefect.db", made)
    return made


@pytest.fixture(autouse=True)
def environment_is_kept() -> Iterator[None]:
    """What a test leaves in the environment would reach the next files of this process, and these differ from time to
    time: with several workers, files go to whichever is free."""
    with patch.dict(os.environ):
        before = dict(os.environ)
        yield
        changed = dict(os.environ.items() ^ before.items()).keys() - {
            "PYTEST_CURRENT_TEST",
            "TORCHINDUCTOR_CACHE_DIR",
        }  # torch sets the latter
    assert not changed, f"left in the environment: {sorted(changed)}"
