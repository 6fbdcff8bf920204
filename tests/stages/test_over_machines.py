"""Guide and evaluate stages over two machines: the same bits as on one, also after one of them was lost in between."""

from __future__ import annotations

import pickle
import shutil
import signal
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest

from npo_core.errors import ConfigError, DeviceError, StageError
from npo_core.models import identity
from npo_core.stages import elsewhere, guides, nodes
from npo_core.stages.context import StageContext
from npo_core.stages.engine import of_machine
from npo_core.stages.guides import weights_digest
from npo_core.stages.launch import run_stage
from npo_core.stages.processes import generation_processes
from npo_core.stages.workspace import Workspace
from tests.machines import over_two


def test_guidance_goes_on_when_what_generates_elsewhere_was_killed(fresh, reference, second):
    run, killed = fresh("guide"), []
    spec = over_two(run.guide())

    def kill(event) -> None:
        if not killed:
            [host] = second.hosts()
            host.kill()
            killed.append(host)

    with pytest.raises(StageError, match=r"Process 1 of the 2 that generate ended on 127\.0\.0\.\d") as failed:
        run_stage(spec, kill)
    assert failed.value.retryable and failed.value.exit_code == 74
    assert 0 < len(list(run.folder.glob("stages/guide-*/shards/*.parquet"))) < 20
    assert run.outcome(spec, run_stage(spec).result) == reference.left["guide"]


def test_evaluation_goes_on_when_a_machine_falls_silent(fresh, reference, second):
    """As one does whose power or network is gone: nothing says so, and whoever asked it would wait for good."""
    run, silenced = fresh("evaluate"), threading.Event()

    def silence(event) -> None:
        if not silenced.is_set():
            second.signal(signal.SIGSTOP)
            silenced.set()

    with pytest.raises(StageError, match="Machine 1 of execution.nodes = 2 was lost: it gave no sign for 5") as failed:
        run_stage(over_two(run.evaluate(), lost_after=5.0), silence)
    assert failed.value.retryable and failed.value.exit_code == 74
    second.signal(signal.SIGCONT)
    spec = over_two(run.evaluate())
    assert run.outcome(spec, run_stage(spec).result) == reference.left["evaluate"]
    assert not second.hosts()  # they are over with the stage


def test_each_machine_has_its_share_of_the_processes(fresh, monkeypatch):
    spec = over_two(fresh("guide").guide())

    def shares(number: int | None, device: str = "cpu", **engine) -> list[list[str | None]]:
        execution = spec.execution.model_copy(update={"generation_processes": number})
        asked = spec.model_copy(update={"execution": execution, "engine": spec.engine.model_copy(update=engine)})
        return [of_machine(asked, device, machine)["devices"] for machine in range(2)]

    assert [[*map(len, shares(number))] for number in (None, 2, 3, 4)] == [[1, 1], [1, 1], [2, 1], [2, 2]]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert shares(None, "cuda") == [["0", "1", "2", "3"]] * 2
    assert shares(None, "cuda", kind="vllm", tensor_parallel=2) == [["0,1", "2,3"]] * 2
    with pytest.raises(
        ConfigError,
        match="generation_processes = 9 on execution.nodes = 2 need 5 GPUs each, and this machine has 4: set at most 8",
    ):
        shares(9, "cuda")
    assert "Machine 1: execution.generation_processes = 9" in lacking(spec, 9, monkeypatch)


def lacking(spec, number: int, monkeypatch) -> str:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    update = {"device": "cuda", "generation_processes": number}
    return nodes.missing(spec.model_copy(update={"execution": spec.execution.model_copy(update=update)}), "1")


def test_one_process_that_generates_needs_no_other_machine(fresh):
    run = fresh("guide")
    spec = over_two(run.guide(), generation_processes=1)
    assert (spec.machines, spec.processes) == (1, 1)
    assert (over_two(spec, generation_processes=2).machines, over_two(run.base()).machines) == (2, 1)
    assert generation_processes(spec.execution, spec.engine, "cpu") == 1


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ('{"problem": "OSError(12)"}', r"Machine 1 could not start what generates there \(OSError\(12\)\).*npo join"),
        ('{"key": "00", "addresses": [["127.0.0.1", 1]]}', r"generates at 127.0.0.1:1, which cannot be reached"),
    ],
)
def test_a_machine_whose_processes_cannot_be_asked_is_named(monkeypatch, told, problem):
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(nodes, "meeting", lambda: store)
    store.set(f"{elsewhere.HOSTS}/1", told)
    with pytest.raises(DeviceError, match=problem):
        elsewhere.managers(2)


def test_each_machine_finds_its_own_files_of_a_snapshot(fresh, reference, monkeypatch):
    """One machine's processes are told the folder, those of several how to come by one."""
    run, opened = fresh("guide"), []
    monkeypatch.setattr("npo_core.engines.dealt.DealtEngine", lambda hosts, folder, *_, **__: opened.append(folder))
    context = StageContext(run.workspace, run.workspace.scratch, "cpu", hosts=object())
    for spec in (run.guide(), over_two(run.guide())):
        guides.load_engine(spec, context, reference.found["base"])
    folder, there = opened
    assert pickle.loads(pickle.dumps(there))() == folder == run.workspace.snapshot_folder(reference.found["base"])


def test_each_machine_makes_what_guides_beyond_snapshots(fresh, reference, monkeypatch, tmp_path):
    """Where the workspace is in S3 no other machine sees the first one's files."""
    run = fresh("guide")
    early, late = reference.found["guides"]
    asked = (run.workspace.uri, "stages/guide-x", early, late, 1.0)
    folders = []
    for name in ("first", "second"):
        monkeypatch.setattr(Workspace, "scratch", tmp_path / name)
        folders.append(guides.beyond_there(*asked))
    assert guides.beyond_there(*asked) == folders[1] and folders[0] != folders[1]
    assert len({weights(folder) for folder in folders}) == 1
    assert weights(folders[0]) != weights(run.workspace.snapshot_folder(late))


def test_a_digest_of_weights_has_no_shard_in_memory_as_a_whole(tmp_path):
    contents = [bytes([number]) * 2**23 for number in range(3)]
    for number, content in enumerate(contents):
        (tmp_path / f"model-{number}.safetensors").write_bytes(content)
    tracemalloc.start()
    try:
        found = weights_digest(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()
    assert found == identity.digest(*contents)  # it is in the caches that were made


def test_where_a_snapshot_was_read_from_s3_nothing_is_forked(fresh, monkeypatch):
    """What reads S3 has a thread, and a lock that it holds at a fork is never released in the new process."""
    run, started = fresh("guide"), []
    monkeypatch.setattr("npo_core.engines.dealt.start_managers", lambda **how: started.append(how["start"]) or [])
    monkeypatch.setattr(nodes, "meeting", lambda: SimpleNamespace(set=lambda key, value: None))
    monkeypatch.setattr(nodes, "stay_in_touch", lambda spec: None)
    monkeypatch.setattr(nodes, "until_done", lambda: 0)
    monkeypatch.setattr(elsewhere, "own_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GROUP_RANK", "1")
    for uri in (run.workspace.uri, "s3://bucket/run"):
        assert elsewhere.generate(over_two(run.guide(workspace=uri))) == 0
    assert started == ["fork", "spawn"]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_model_outside_the_run_is_the_same_on_all_machines(fresh, reference, tmp_path, monkeypatch):
    run = fresh("guide")
    base, late = (run.workspace.snapshot_folder(id_) for id_ in (reference.found["base"], reference.found["guides"][1]))
    model = shutil.copytree(base, tmp_path / "model")
    digest = weights_digest(model)
    monkeypatch.setattr(Workspace, "scratch", tmp_path / "elsewhere")
    asked, hashed = (run.workspace.uri, "stages/guide-x", str(model), digest), []
    monkeypatch.setattr(guides, "weights_digest", lambda folder: hashed.append(folder) or weights_digest(folder))
    assert weights(guides.teacher_there(*asked)) == weights(model)
    shutil.copy(late / "model.safetensors", model)
    assert weights_digest(guides.teacher_there(*asked)) == digest  # it was there
    assert len(hashed) == 1  # once a machine, not in every process
    with pytest.raises(ConfigError, match="has other weights"):  # the run asks for those of now, which come and go
        guides.teacher_there(*asked[:3], "others")
    with pytest.raises(ConfigError, match="has other weights"):
        guides.teacher_there(*asked)
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="mix.guide.path = .* has other weights on the machine .* the same files"):
        guides.teacher_there(*asked)
