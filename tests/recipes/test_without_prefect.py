"""Studies, and the check of a GPU, run where Prefect is not installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from npo_core.config import load_config
from npo_core.shipped import presets

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
    """A run of its own at its smallest: what it spent is what its steps say."""
    import benchmarks.common as common
    from studies import methods

    monkeypatch.setitem(sys.modules, "prefect", None)
    monkeypatch.setenv("NPO_HOME", str(tmp_path / "home"))
    small = load_config(presets()["smoke"], {**common.QUICK, "training.steps": 8, "method": "pool-rescue-replay-8"})
    monkeypatch.setattr(methods, "configure", lambda method, seed, steps, folder: small)
    found = methods.run_job("mine", 0, 8, str(tmp_path / "runs"))
    assert found[-1].step == found[-1].updates == 8
    assert found[-1].tokens > 8 * small.training.batch  # extra samples, too
    assert found[-1].flops > found[-1].tokens
    assert methods.run_job("mine", 0, 8, str(tmp_path / "runs")) == found
    assert methods.read_all(["mine"], tmp_path / "runs") == {"mine": {0: found}}


def test_the_gpu_check_runs_without_prefect(tmp_path):
    """Its first part, the demo through the stages; the others take minutes and import nothing else."""
    code = NO_PREFECT + (
        "import argparse, pathlib; from benchmarks import gpu_check as check\n"
        "config = check.configure(argparse.Namespace(device='cpu', tiny=True, steps=40), bf16=False)\n"
        "check.settle(config)\n"
        "print(check.findings('demo', {'fp32': check.through_stages(config, pathlib.Path(sys.argv[1]))}))"
    )
    environment = {"PATH": "/usr/bin:/bin", "NPO_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r"replayed bit for bit.*\| yes", done.stdout)) >= 3, done.stdout
