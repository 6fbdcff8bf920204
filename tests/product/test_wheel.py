"""The built wheel where Prefect is not installed, from a folder that is no checkout."""

import ast
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = re.compile(r"_?(npo_core|prefect|torchvision|npo_torchvision|pip|setuptools)|.*\.pth$|__pycache__")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, built from the sdist, and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def bin(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and what it needs, without Prefect and without the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    here = Path(sysconfig.get_path("purelib"))
    there = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for entry in here.iterdir():
        if not LEFT_OUT.match(entry.name):
            (there / entry.name).symlink_to(entry)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet", "--no-deps"]
    subprocess.run([*map(str, pip), str(built[0])], check=True, timeout=600)
    return folder / "bin"


@pytest.fixture(scope="module")
def npo(bin: Path, tmp_path_factory: pytest.TempPathFactory):
    """Runs the installed command in a temporary folder."""
    folder = tmp_path_factory.mktemp("anywhere")
    environment = {
        "PATH": "/usr/bin:/bin",
        "NPO_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [bin / "npo", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)

    return run


def test_the_smoke_preset_runs_and_can_be_looked_at(npo):
    run = npo("run", "early-bootstrap", "--config", "smoke", "--workspace", "runs/smoke", "--local")
    assert run.returncode == 0, run.stderr
    for stage in ("base model", "train scout to 12", "generate guidance", "train replay to 12 guided", "evaluate"):
        assert re.search(rf"^{stage} .*done after", run.stderr, re.MULTILINE), run.stderr
    for command, said in (
        (["report", "runs/smoke"], "held-out pass rate"),
        (["prove-replay", "runs/smoke"], "is equal bit for bit"),
        (["plan", "smoke"], "What is known fits."),
        (["status", "runs/smoke"], "Finished."),
        (["config", "--preset", "smoke"], "training.steps"),
    ):
        done = npo(*command)
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr


def test_what_needs_prefect_says_so(npo):
    for command in (["run", "grpo", "--config", "smoke", "--workspace", "runs/grpo"], ["serve"]):
        done = npo(*command)
        assert done.returncode == 64 and "npo-core[pipeline]" in done.stderr, done.stderr


def test_what_the_wheel_brings(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
    for name in ("flows/grpo.py", "tasks/train.py", "prefect.yaml", "deployments/configs/demo.yaml"):
        assert f"npo_core/_shipped/{name}" in names
    assert "npo_core/py.typed" in names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"npo_core"}
    with tarfile.open(built[1]) as sdist:
        inside = {name.split("/", 1)[-1] for name in sdist.getnames()}
    assert {"README.md", "examples/npo_loop.py", "tests/product/test_wheel.py"} <= inside


def test_every_package_that_is_imported_is_required():
    imported = set()
    for file in (ROOT / "npo_core").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    # An interpreter of its own, and extras: `tracking`, and libraries that draw problems.
    apart = {"vllm", "tensorboard", "trackio", "wandb", "mlflow", "reasoning_gym", "verifiers"}
    imported -= {*sys.stdlib_module_names, "npo_core", *apart}
    metadata = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[0]
    required = {name.lower().replace("_", "-") for name in re.findall(r'^    "([\w-]+)', metadata, re.MULTILINE)}
    known = packages_distributions()
    missing = {name for name in imported if not {d.lower().replace("_", "-") for d in known[name]} & required}
    assert not missing
