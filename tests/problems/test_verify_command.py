"""`npo verify` through the command line."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from npo_core.cli.app import app

runner = CliRunner()
WIDE = {"COLUMNS": "200"}


@pytest.fixture
def config(tmp_path):
    verifier = {"kind": "all_of", "parts": [{"kind": "numeric"}, {"kind": "math"}]}
    problems = {"kind": "data", "train": {"path": "no.jsonl"}, "held_out": {"path": "no.jsonl"}, "verifier": verifier}
    problems |= {"verifiers": {"letters": {"kind": "choice"}}}
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"problems": problems, "model": {"kind": "pretrained", "path": "none"}})
    )
    return str(tmp_path / "config.yaml")


def verify(config, *options):
    return runner.invoke(app, ["verify", config, *options], env=WIDE)


def test_one_completion(config):
    shown = verify(config, "--completion", "so #### 30 eggs", "--answer", "#### 30")
    assert shown.exit_code == 0, shown.output
    for said in ("numeric", "math", "pattern", "30 eggs", "correct"):
        assert said in shown.stdout


def test_a_file_of_them(config, tmp_path):
    pairs = [("I got 2 1/2", "2.5"), ("\\boxed{2.5} or \\boxed{3}", "2.5"), ("\\boxed{3}", "1/2x")]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps({"completion": c, "answer": a}) for c, a in pairs))
    rows = json.loads(verify(config, "--file", str(file), "--json").stdout)["rows"]
    assert [(row["outcome"], row["fallback"], row["guides"], row["accuracy"]) for row in rows] == [
        ("correct", True, False, 1.0),
        ("unparsable", False, False, 0.0),
        ("crash", False, False, None),
    ]
    assert rows[0]["parts"][0] == {
        "kind": "numeric", "reference": "2.5", "claimed": "2 1/2", "by": "last", "value": "5/2"
    }  # fmt: skip
    assert [part["reference"] for part in rows[2]["parts"]] == [None, None]
    shown = verify(config, "--file", str(file)).stdout
    assert "correct by a guess" in shown and "cannot be read" in shown


def test_another_verifier_by_name(config):
    shown = verify(config, "--completion", "the answer is (b)", "--answer", "B", "--verifier", "letters", "--json")
    assert json.loads(shown.stdout)["rows"][0]["guides"] is True


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--completion", "3"], 64, "Give either --completion and --answer, or --file"),
        (["--file", "gone.jsonl"], 65, "gone.jsonl cannot be read"),
        (
            ["--completion", "3", "--answer", "3", "--verifier", "none"],
            64,
            "none is none of problems.verifiers (letters)",
        ),
    ],
)
def test_what_is_wrong_is_said(config, options, code, words):
    result = verify(config, *options)
    assert result.exit_code == code and words in result.stderr


def test_a_bad_row_is_named(config, tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"completion": "3", "answer": "3"}\n{"completion": "3"}\n')
    result = verify(config, "--file", str(tmp_path / "pairs.jsonl"))
    assert result.exit_code == 65 and "pairs.jsonl row 2" in result.stderr


def test_the_built_in_task_has_its_own():
    result = verify("deployments/configs/smoke.yaml", "--completion", "1", "--answer", "1")
    assert result.exit_code == 64 and "problems.kind = chain" in result.stderr
