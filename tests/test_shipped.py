"""What is shipped hangs together: configurations parse, and documents name files and functions that exist."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import npo_core
from npo_core.cli.app import app
from npo_core.config import load_config

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "deployments/configs").glob("*.yaml"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_parses(path):
    config = load_config(path)
    assert config.name == path.stem
    assert load_config(path, {"seed": 7}).seed == 7


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    for name in re.findall(
        r"`((?:npo_core|flows|tasks|benchmarks|studies|tests|examples|deployments)/[\w./-]+)`", page.read_text()
    ):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_citation_is_of_the_newest_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert (cited["version"], cited["date-released"]) == newest.groups() and cited["version"] == npo_core.__version__


def commands(page: Path) -> list[str]:
    """The lines of a page's code blocks that begin with `npo`."""
    blocks = re.findall(r"```(?:bash)?\n(.*?)```", page.read_text(), re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("npo ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_and_their_options_exist(page):
    program = get_command(app)
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        command = program
        while hasattr(command, "commands"):
            assert words and words[0] in command.commands, f"{page.name}: {line}"
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        unknown = {word for word in words if word.startswith("--")} - known
        assert not unknown, f"{page.name}: {line} has {unknown}"


def test_formulas_name_functions_that_exist():
    text = (ROOT / "docs/method.md").read_text()
    named = re.findall(r"`(npo_core(?:\.\w+)+)`", text)
    assert len(named) >= 4
    for dotted in named:
        module, _, name = dotted.rpartition(".")
        try:
            importlib.import_module(dotted)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), name), dotted


def test_the_core_imports_without_prefect():
    code = (
        "import sys; sys.modules['prefect'] = None; import npo_core.training.trainer, npo_core.stages.launch, "
        "npo_core.stages.train, npo_core.reporting.report"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=600)
