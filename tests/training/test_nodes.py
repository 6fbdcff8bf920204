"""A stage over two machines, which are two addresses of the loopback interface here; the second is lost in between."""

from __future__ import annotations

import json
import os
import queue
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from npo_core.config import Execution, parse_config
from npo_core.errors import ConfigError, DeviceError
from npo_core.names import ERROR_FILE, FUNCTIONS_FILE, SPEC_FILE
from npo_core.recipes.run import look_first
from npo_core.stages import nodes, prove
from npo_core.stages.context import scratch_folder
from npo_core.stages.execute import main
from npo_core.stages.launch import read_result
from npo_core.stages.nodes import Place, first_place
from npo_core.stages.processes import PARENT, accelerate_launch
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from npo_core.timeline.segments import read_marks
from tests.machines import ADDRESS, Second, ended, meet, start
from tests.training.test_shared_batches import assert_same

TWO = Execution(device="cpu", threads=1, processes=2, nodes=2)
STEPS = 60


@pytest.fixture
def launcher(monkeypatch):
    """What the first machine's launcher holds, in this process, which is one of machine 1."""
    from torch.distributed import TCPStore

    monkeypatch.setattr(nodes, "LOOK", 0.05)
    monkeypatch.setattr(nodes, "SOON", 0.05)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), PARENT: "0"}.items():
        monkeypatch.setenv(name, value)
    for name, value in {"LOCAL_RANK": "0", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(nodes, "die_with_parent", lambda parent: None)
    return [store]


@pytest.fixture
def codes(monkeypatch):
    """The codes that threads would end this process with."""
    found = queue.SimpleQueue()
    monkeypatch.setattr(os, "_exit", found.put)
    return found


def test_a_stage_over_two_machines_goes_on_when_one_was_lost(bench, tmp_path, monkeypatch):
    port = meet(monkeypatch)
    ground = bench(steps=STEPS)
    one = ground.train("one", STEPS)
    ground.workspace.timeline.add_branch(Branch(name="two", parent=ground.base, parent_step=0, reason="test"))
    spec = ground.spec("two", ground.base, STEPS, execution=TWO)
    scratch = scratch_folder(ground.workspace, spec)
    scratch.mkdir(parents=True)
    (file := tmp_path / "spec.json").write_text(spec.model_dump_json())

    def first() -> int:
        return start(lambda: main(spec.stage, file), tmp_path / "first.log")

    started, other = first(), Second(port, tmp_path / "second.log")
    while not read_marks(ground.workspace.store, spec.fingerprint):
        assert os.waitpid(started, os.WNOHANG) == (0, 0), (tmp_path / "first.log").read_text()
        time.sleep(0.05)
    other.lose()
    assert ended(started) == 74
    said = json.loads((scratch / ERROR_FILE).read_text())
    assert said["retryable"] and said["exit_code"] == 74
    assert read_result(ground.workspace, spec) is None
    done = len(read_marks(ground.workspace.store, spec.fingerprint))
    assert 0 < done < STEPS / 2
    started, other = first(), Second(port, tmp_path / "second.log")
    try:
        assert ended(started) == 0, (tmp_path / "first.log").read_text()
    finally:
        other.lose()
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
    bench, tmp_path, monkeypatch, launcher, processes, workspace, problem
):
    """Before any process waits for others: through the store that launchers of all machines share."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
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


def test_a_process_of_another_machine_ends_with_the_first_machines_launcher(launcher, codes, bench):
    nodes.stay_in_touch(bench().spec("two", "", STEPS, execution=TWO))
    time.sleep(0.2)
    assert codes.empty()
    launcher.clear()
    assert codes.get(timeout=10) == 74


def test_a_process_of_another_machine_ends_when_the_first_falls_silent(launcher, codes, bench, monkeypatch):
    """The store waits for an answer for good."""
    spec = bench().spec("two", "", STEPS, execution=TWO.model_copy(update={"lost_after": 0.5}))
    meeting, silent = nodes.meeting(), threading.Event()

    class Silent:
        def add(self, key: str, amount: int) -> int:
            if silent.is_set():
                time.sleep(3)
                raise RuntimeError("the test is over")
            return meeting.add(key, amount)

    monkeypatch.setattr(nodes, "meeting", Silent)
    nodes.stay_in_touch(spec)
    time.sleep(1)
    assert codes.empty()
    silent.set()
    assert codes.get(timeout=2) == 74


def test_a_machine_that_gives_no_sign_ends_the_stage(launcher, codes, bench, tmp_path):
    """Whatever the stage waits for meanwhile, such as NCCL, which would wait for hours."""
    spec = bench().spec("two", "", STEPS, execution=TWO.model_copy(update={"lost_after": 1.0}))
    nodes.stay_in_touch(spec)
    nodes.watch_machines(spec, tmp_path / ERROR_FILE)
    time.sleep(2)
    assert codes.empty()
    spec = spec.model_copy(update={"execution": spec.execution.model_copy(update={"nodes": 3})})
    nodes.watch_machines(spec, tmp_path / ERROR_FILE)  # of which machine 2 never gives one
    assert codes.get(timeout=10) == 74
    said = json.loads((tmp_path / ERROR_FILE).read_text())
    assert said["message"].startswith("Machine 2 of execution.nodes = 3 was lost: it gave no sign for 1 seconds")
    assert said["retryable"] and said["exit_code"] == 74 and not said["consequence"]
    launcher.clear()
    assert codes.get(timeout=10) == 74


def test_a_process_that_is_through_gives_signs_until_the_stage_is_over(launcher, codes, bench, monkeypatch):
    """What the first process writes last, as a large snapshot, may take long."""
    monkeypatch.setattr("npo_core.stages.execute.main", lambda name, file: 0)
    monkeypatch.setattr(nodes, "environment", lambda execution: {})
    ground = bench()
    with ThreadPoolExecutor(1) as other:
        code = other.submit(nodes.joined)
        nodes.announce(ground.spec("two", ground.base, STEPS, execution=TWO))
        signs = {launcher[0].add(f"{nodes.SIGNS}/1", 0)}
        while len(signs) < 5:
            time.sleep(0.1)
            signs.add(launcher[0].add(f"{nodes.SIGNS}/1", 0))
        assert not code.done()
        nodes.dismiss()
        assert code.result(timeout=10) == 0
    launcher.clear()
    assert codes.get(timeout=10) == 74


def test_a_machine_with_another_version_says_so(monkeypatch):
    monkeypatch.setenv("GROUP_RANK", "1")
    for name, asked in (("later", "{}"), ("train", '{"of": "another version"}')):
        assert "Machine 1 does not know" in (said := nodes.obstacle(name, asked)) and "the same version" in said


def test_whatever_keeps_a_machine_from_taking_part_is_said(monkeypatch, bench, capsys):
    """The first machine would wait for ten minutes, and say nothing of it."""
    monkeypatch.setenv("GROUP_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    spec = bench().spec("two", "", 2, execution=TWO)
    monkeypatch.setattr("npo_core.stages.execute.prepare_device", lambda execution: [][0])
    said = nodes.obstacle("train", spec.model_dump_json())
    assert "Machine 1 cannot take part (IndexError('list index out of range')): see the output" in said
    assert "Traceback" in capsys.readouterr().err


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
    ground.workspace.store.write_json(FUNCTIONS_FILE, {"mine:right": {"file": "mine.py", "digest": "1"}})
    for address, machines in ((None, 1), (ADDRESS, 2)):
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        if address:
            monkeypatch.setenv("MASTER_ADDR", address)
        copy = Workspace(tmp_path / f"proof-{machines}")
        execution = prove.respecify(ground.workspace, copy, segment, 2).execution
        assert (execution.nodes, execution.processes) == (machines, 2)
        assert copy.store.read_json(FUNCTIONS_FILE) == ground.workspace.store.read_json(FUNCTIONS_FILE)


def test_a_machine_without_the_gpus_of_the_first_says_so(bench, monkeypatch):
    """`auto` is a GPU there, and would be the CPU here: the two would wait for each other in different libraries."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    spec = bench().spec("two", "", 2, execution=TWO.model_copy(update={"device": "cuda"}))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "Machine 1: execution.device = cuda, but torch" in nodes.missing(spec, "1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert "Machine 1: execution.processes = 2 on execution.nodes = 2, but" in nodes.missing(spec, "1")
