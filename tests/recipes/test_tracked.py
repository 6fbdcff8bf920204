"""A run that is tracked: killed and started again it is the same run, and TensorBoard and Trackio have it once."""

import importlib.util
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml

from npo_core.config import load_config
from npo_core.recipes.local import run_local
from npo_core.tracking.ledger import read_ledger
from tests.flows.conftest import ROOT, TINY, npo, outcome, wait_for
from tests.tracking.readers import READERS

TO = [name for name in ("tensorboard", "trackio") if importlib.util.find_spec(name)]


@pytest.mark.skipif(not TO, reason="no tracker is installed: pip install 'npo-core[tracking]'")
def test_a_tracked_run_that_is_killed_is_told_once(runs, home, tmp_path):
    told, workspace, file = tmp_path / "told", tmp_path / "run", tmp_path / "tracked.yaml"
    file.write_text(yaml.safe_dump(TINY | {"tracking": {"to": TO, "folder": str(told)}}))
    command = npo("run", "early-bootstrap", "--config", file, "--workspace", workspace, "--local")
    environment = {**os.environ, "NPO_HOME": str(home)}
    for pattern in ("segments/*/mark-000008.json", "branches/replay.json"):
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
        wait_for(workspace, pattern, process)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=120)
        gone, alive = psutil.wait_procs(below, timeout=20)
        assert not alive
    run_local("early-bootstrap", load_config(file), str(workspace))
    untracked = runs["early-bootstrap"]
    assert outcome(workspace) == outcome(untracked.uri)
    assert "tracking" in (Path(workspace) / "config.json").read_text()
    ledger = read_ledger(type(untracked)(workspace).store)
    assert ledger.updates == 36 and {told.updates for told in ledger.told.values()} == {36}
    for name in TO:
        found = READERS[name](told)
        assert found.steps("all/step") == list(range(1, 37))
        assert found.steps("scout/pass_rate") == list(range(1, 13))
        assert found.steps("replay/pass_rate") == list(range(13, 37))
        # Killed between telling an event and noting that, it tells it once more.
        assert 1 <= found.events.count("rollback to step 0: branch replay") <= 2
        assert found.events[-1] == "the run finished"
        assert found.steps("evaluation/pass_rate")[0] == 0
        assert found.config["workspace"] == str(workspace) and found.config["recipe"] == "early-bootstrap"
