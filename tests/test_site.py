"""The documentation as a site: it builds without a warning, asks no other server, and says for whom each page is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PARTS = ("docs", "mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deployments", "examples")


def build(checkout: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build`, strict as mkdocs.yml says."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site), "--config-file", "mkdocs.yml"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_in_the_menu(site):
    menu = yaml.safe_dump(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    listed = set(re.findall(r"\S+\.md", menu))
    assert listed == {"index.md", "contributing.md", "changelog.md"} | {p.name for p in (ROOT / "docs").glob("*.md")}
    assert all((site / page.replace(".md", ".html")).exists() for page in listed)
    assert (site / "pictures/study-e.png").exists() and 'src="pictures/study-e.png"' in (
        site / "index.html"
    ).read_text()


def test_links_to_files_outside_the_site_are_text(site):
    page = (site / "deployment.html").read_text()
    assert "compose.yaml" in page and "../deployments" not in page
    assert 'href="security.html"' in page


def test_no_other_server_is_asked(site):
    for page in site.glob("*.html"):
        assert not re.findall(r'(?:src|srcset)="https?://[^"]*"|<link[^>]*href="https?://[^"]*"', page.read_text())


def test_a_dead_link_and_a_missing_picture_end_the_build(tmp_path):
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    with open(tmp_path / "docs/adapters.md", "a") as page:
        page.write("\n[dead](nowhere.md) [anchor](data.md#nowhere) ![gone](pictures/gone.png) [no file](../gone.py)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for target in ("nowhere.md", "data.md#nowhere", "pictures/gone.png", "../gone.py"):
        assert target in done.stderr, done.stderr


PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_says_for_whom_it_is(page):
    title, reader, *_ = page.read_text().splitlines()
    assert title.startswith("# ") and re.fullmatch(r"\*For .+\*", reader), f"{page.name} begins with {reader!r}"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout, whose files are checked")
def test_the_checkout_is_as_its_commit_hooks_want_it(tmp_path):
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--show-diff-on-failure"]
    environment = {**os.environ, "PRE_COMMIT_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == 7, done.stdout
