"""Studies, and the check of a GPU, run where Prefect is not installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_PREFECT = "import sys; sys.modules['prefect'] = None; "
OF_PREFECT = {"fixed", "flow", "flow_parts"}  # what measures Prefect itself


def modules() -> list[str]:
    files = [*(ROOT / "studies").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    return sorted(
        f"{f.parent.name}.{f.stem}" for f in files if not f.stem.startswith("__") and f.stem not in OF_PREFECT
    )


def test_studies_and_benchmarks_import_no_prefect():
    code = NO_PREFECT + "import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)"
    needs_vllm = ("benchmarks.vllm_plain",)
    names = [name for name in modules() if name not in needs_vllm]
    assert len(names) > 25
    subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, check=True, timeout=600)


@pytest.fixture
def quick_study(monkeypatch, tmp_path):
    """The study of results with one arm at its smallest."""
    import benchmarks.common as common
    from studies import results

    tiny = results.Arm("GRPO", "grpo", {**common.QUICK, "training.steps": 8})
    monkeypatch.setattr(results, "ARMS", {"early": [tiny]})
    monkeypatch.setenv("NPO_HOME", str(tmp_path / "home"))
    return results, tiny


def test_a_study_runs_its_arms_without_prefect(quick_study, tmp_path, monkeypatch):
    results, tiny = quick_study
    monkeypatch.setitem(sys.modules, "prefect", None)
    found = results.run_job(tiny, 1, str(tmp_path / "runs"))
    assert found["points"][-1]["step"] == 8 and found["points"][-1]["updates"] == 8
    again = results.run_job(tiny, 1, str(tmp_path / "runs"))
    assert again == found


def test_the_study_of_methods_runs_and_counts(tmp_path, monkeypatch):
    """A run of its own at its smallest: what it spent is what its steps say, and its points outlive its workspace."""
    import benchmarks.common as common
    from studies.methods import Job, read_all, run_job

    monkeypatch.setitem(sys.modules, "prefect", None)
    monkeypatch.setenv("NPO_HOME", str(tmp_path / "home"))
    quick = {**common.QUICK, "training.steps": 8, "model.bounds": None, "bootstrap.scout_steps": 4}
    found = run_job(job := Job("E", "pool-rescue-replay-8", 0), str(tmp_path), keep=False, quick=quick)
    assert found[-1].step == found[-1].updates == 8
    assert found[-1].tokens > 8 * 16  # extra samples, too
    assert found[-1].flops > found[-1].tokens
    assert not (tmp_path / job.name).exists()
    assert run_job(job, str(tmp_path)) == found
    assert read_all(tmp_path) == {"E": {"pool-rescue-replay-8": {0: found}}}


def test_a_late_arm_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    """Killed after its first recipe, and in its second: the points are those of a run that was not."""
    import benchmarks.common as common
    from npo_core.config import Plateau
    from npo_core.recipes.local import LocalSteps
    from studies import methods

    monkeypatch.setenv("NPO_HOME", str(tmp_path / "home"))
    late = Plateau(guide_step=8, rollback_step=4, until=12)
    monkeypatch.setitem(methods.ARMS, "npo-late", methods.ARMS["npo-late"].__class__("grpo", updates=8, late=late))
    quick = {**common.QUICK, "training.steps": 8, "bootstrap.scout_steps": 4, "model.bounds": None}
    job, run_local = methods.Job("E", "npo-late", 0), methods.run_local
    whole = methods.run_job(job, str(tmp_path / "whole"), quick=quick)
    assert whole[-1].step == 12 and whole[-1].updates == 16

    class Killed(Exception): ...

    def killed(*_, **__):
        raise Killed

    def between(recipe, config, uri, plateau=None):
        return killed() if plateau else run_local(recipe, config, uri)

    for place, name, what in ((methods, "run_local", between), (LocalSteps, "evaluate", killed)):
        with monkeypatch.context() as cut, pytest.raises(Killed):
            cut.setattr(place, name, what)
            methods.run_job(job, str(tmp_path / "cut"), quick=quick)
    again = methods.run_job(job, str(tmp_path / "cut"), quick=quick)
    assert [p._replace(seconds=0) for p in again] == [p._replace(seconds=0) for p in whole]


def test_the_gpu_check_runs_without_prefect(tmp_path):
    """Its first part, the demo through the stages; the others take minutes and import nothing else."""
    (tmp_path / "no").mkdir()
    (tmp_path / "no/prefect.py").write_text("raise ModuleNotFoundError('prefect is not here')")
    environment = {"PATH": "/usr/bin:/bin", "NPO_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--tiny", "--parts", "exact, fp32"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "found.md")],
        cwd=ROOT, env=environment | {"PYTHONPATH": str(tmp_path / "no")}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = (tmp_path / "found.md").read_text()
    assert found.strip() in done.stdout
    assert len(re.findall(r"replayed bit for bit.*\| yes", found)) >= 3, found
