"""A stage over two machines, which are two addresses of the loopback interface here; the second is lost in between."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from npo_core.config import Execution, parse_config
from npo_core.errors import ConfigError, DeviceError
from npo_core.names import ERROR_FILE, SPEC_FILE
from npo_core.recipes.run import look_first
from npo_core.stages import nodes, prove
from npo_core.stages.context import scratch_folder
from npo_core.stages.execute import main
from npo_core.stages.launch import read_result
from npo_core.stages.nodes import Place, first_place, join
from npo_core.stages.processes import PARENT, accelerate_launch
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from npo_core.timeline.segments import read_marks
from tests.training.test_shared_batches import assert_same

ADDRESS = "127.0.0.2"
TWO = Execution(device="cpu", threads=1, processes=2, nodes=2)
STEPS = 60


def start(call, log: Path) -> int:
    """Call it in a fork of this process, whose output goes to a file; the process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        code = call()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_stage_over_two_machines_goes_on_when_one_was_lost(bench, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": ADDRESS, "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(PARENT, str(os.getpid()))
    ground = bench(steps=STEPS)
    one = ground.train("one", STEPS)
    ground.workspace.timeline.add_branch(Branch(name="two", parent=ground.base, parent_step=0, reason="test"))
    spec = ground.spec("two", ground.base, STEPS, execution=TWO)
    scratch = scratch_folder(ground.workspace, spec)
    scratch.mkdir(parents=True)
    (file := tmp_path / "spec.json").write_text(spec.model_dump_json())

    def first() -> int:
        return start(lambda: main(spec.stage, file), tmp_path / "first.log")

    def second() -> int:
        return start(lambda: join(Place(2, 1, ADDRESS, port), 1), tmp_path / "second.log")

    started, other = first(), second()
    while not read_marks(ground.workspace.store, spec.fingerprint):
        assert os.waitpid(started, os.WNOHANG) == (0, 0), (tmp_path / "first.log").read_text()
        time.sleep(0.05)
    os.kill(other, signal.SIGKILL)  # its process ends with it, as the kernel sees to
    assert ended(other) == -signal.SIGKILL and ended(started) == 74
    said = json.loads((scratch / ERROR_FILE).read_text())
    assert said["retryable"] and said["exit_code"] == 74
    assert read_result(ground.workspace, spec) is None
    done = len(read_marks(ground.workspace.store, spec.fingerprint))
    assert 0 < done < STEPS / 2
    started, other = first(), second()
    try:
        assert ended(started) == 0, (tmp_path / "first.log").read_text()
    finally:
        os.kill(other, signal.SIGKILL)
        ended(other)
    assert_same(ground, one, ground.segment(read_result(ground.workspace, spec).result))
    shutil.rmtree(scratch)


@pytest.mark.parametrize(
    ("processes", "workspace", "problem"),
    [
        (2, "", "Machine 1 joined with 2 processes, but execution.processes = 2.* `npo join --processes 1`"),
        (1, "elsewhere", "Machine 1 does not find the run's snapshots in .*elsewhere.* that all machines share"),
    ],
)
def test_the_first_machine_says_what_keeps_another_from_taking_part(
    bench, tmp_path, monkeypatch, processes, workspace, problem
):
    """Before any process waits for others: through the store that launchers of all machines share."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), PARENT: "0"}.items():
        monkeypatch.setenv(name, value)
    for name, value in {"LOCAL_RANK": "0", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": str(processes)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(nodes, "die_with_parent", lambda parent: None)
    ground = bench()
    spec = ground.spec("two", ground.base, STEPS, execution=TWO)
    spec = spec.model_copy(update={"workspace": str(tmp_path / workspace)} if workspace else {})
    with ThreadPoolExecutor(1) as other:
        code = other.submit(nodes.joined)
        with pytest.raises(ConfigError, match=problem):
            nodes.announce(spec)
        assert code.result() == 64


def test_a_machine_that_does_not_come(tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "GATHERING", timedelta(seconds=1))
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        place = Place(2, 0, ADDRESS, free.getsockname()[1])
    with pytest.raises(DeviceError, match=f"execution.nodes = 2 met at {ADDRESS}:.*npo join"):
        nodes.gathered(place, lambda: accelerate_launch(["nothing"], 2, tmp_path, place))


def test_the_others_have_to_find_the_first(monkeypatch, tmp_path):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert first_place(Execution()) == Place()
    with pytest.raises(ConfigError, match="execution.nodes = 2, but .MASTER_ADDR is not set.*npo join"):
        first_place(TWO)
    with pytest.raises(ConfigError, match="MASTER_ADDR is not set"):  # before the base is made, not after
        look_first(parse_config({"execution": TWO.model_dump()}), str(tmp_path / "run"))
    monkeypatch.setenv("MASTER_ADDR", ADDRESS)
    assert first_place(TWO) == Place(2, 0, ADDRESS, nodes.DEFAULT_PORT)
    monkeypatch.setenv("MASTER_PORT", "many")
    with pytest.raises(ConfigError, match="MASTER_PORT = many is no port"):
        first_place(TWO)


def test_a_process_of_another_machine_ends_with_the_first_machines_launcher(monkeypatch):
    from torch.distributed import TCPStore

    codes = queue.SimpleQueue()
    monkeypatch.setattr(nodes, "LOOK", 0.05)
    monkeypatch.setattr(os, "_exit", codes.put)
    launcher = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    launcher.set(nodes.SPEC, "what is run")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(launcher.port))
    nodes.end_with_first(nodes.meeting())
    time.sleep(0.2)
    assert codes.empty()
    del launcher
    assert codes.get(timeout=10) == 74


def test_a_machine_with_another_version_says_so(monkeypatch):
    monkeypatch.setenv("GROUP_RANK", "1")
    for name, asked in (("later", "{}"), ("train", '{"of": "another version"}')):
        assert "Machine 1 does not know" in (said := nodes.obstacle(name, asked)) and "the same version" in said


def test_only_the_first_machine_goes_on_under_a_lease_that_lies_there(monkeypatch):
    """Another one may have been the first of an earlier run, whose lease is over."""
    monkeypatch.delenv("GROUP_RANK", raising=False)
    assert nodes.on_first_machine()
    for number, first in (("0", True), ("1", False)):
        monkeypatch.setenv("GROUP_RANK", number)
        assert nodes.on_first_machine() is first


def test_a_proof_is_spread_over_machines_only_where_they_can_meet_and_find_the_copy(bench, tmp_path, monkeypatch):
    ground = bench()
    found = ground.train("one", 2)
    spec = ground.spec("one", ground.base, 2, execution=TWO)
    ground.workspace.store.write_json(f"stages/train-{found.id}/{SPEC_FILE}", spec.model_dump(mode="json"))
    monkeypatch.setattr(prove, "processes_of", lambda *_: [2])
    segment = ground.workspace.timeline.segment(found.id)
    for address, machines in ((None, 1), (ADDRESS, 2)):
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        if address:
            monkeypatch.setenv("MASTER_ADDR", address)
        copy = Workspace(tmp_path / f"proof-{machines}")
        execution = prove.respecify(ground.workspace, copy, segment, 2).execution
        assert (execution.nodes, execution.processes) == (machines, 2)


def test_a_machine_without_the_gpus_of_the_first_says_so(bench, monkeypatch):
    """`auto` is a GPU there, and would be the CPU here: the two would wait for each other in different libraries."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    spec = bench().spec("two", "", 2, execution=TWO.model_copy(update={"device": "cuda"}))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "Machine 1: execution.device = cuda, but torch" in nodes.missing(spec, "1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert "Machine 1: execution.processes = 2 on execution.nodes = 2, but" in nodes.missing(spec, "1")
