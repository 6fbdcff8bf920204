"""What the UI shows and takes: forms, names, one sentence an error; nothing here needs a server."""

import logging
from typing import Annotated

import pytest
from prefect.utilities.names import generate_slug
from pydantic import TypeAdapter

from flows.approval import describe
from flows.auto_npo import auto_npo
from flows.conclusion import Sentences
from flows.form import FORMS, plain
from flows.naming import generated
from npo_core.config import RunConfig, load_config, parse_config
from npo_core.config.methods import DEFAULTS, methods
from npo_core.control.decision import Price, Scored
from npo_core.errors import ConfigError, StageError
from npo_core.reporting.live import MOST, LiveCurves, live_png
from npo_core.shipped import presets
from tests.control.test_decision_records import decision


@pytest.mark.parametrize("flow", FORMS)
def test_a_form_and_a_file_give_the_same_configuration(flow):
    adapter = TypeAdapter(Annotated[RunConfig, FORMS[flow]])
    for path in presets().values():
        config = load_config(path, recipe=flow)
        form = FORMS[flow].fill(config)
        assert list(form)[:3] == ["name", "seed", "training.steps"] and list(form)[-1] == "advanced"
        assert adapter.validate_python(form) == adapter.validate_python(config.model_dump(mode="json")) == config
        assert adapter.validate_python({"name": "x"}) == RunConfig(name="x", method=DEFAULTS.get(flow))
        assert adapter.validate_python(config) is config


def test_a_form_copes_with_groups_that_it_does_not_name():
    """They are under `advanced`, and an unknown one there is named as in a file."""
    named = {"name", "seed", "method", *FORMS["auto-npo"].groups}
    schema = auto_npo.parameters.model_dump_for_openapi()["properties"]["config"]["properties"]
    assert set(schema["advanced"]["properties"]) == set(RunConfig.model_fields) - named
    with pytest.raises(ConfigError, match="nonsense: there is no such field"):
        parse_config(plain({"name": "x", "advanced": {"nonsense": 1}}))


def test_every_contradiction_of_a_form_is_named_at_once():
    form = FORMS["early-bootstrap"].fill(RunConfig())
    form |= {"training.steps": 201, "bootstrap.scout_steps": 250}
    form["advanced"] = form["advanced"] | {"execution": {"processes": 3}}
    found = TypeAdapter(Annotated[RunConfig, FORMS["early-bootstrap"]]).validate_python(form)
    assert isinstance(found, ConfigError)
    for sentence in (
        "training.steps = 201 is no multiple",
        "bootstrap.scout_steps = 250 is more",
        "processes = 3 does",
    ):
        assert sentence in str(found)


@pytest.mark.parametrize("name", ["my-own run", "my-run", "alpha run", "Small test", "2026-baseline", "grpo"])
def test_a_typed_name_is_no_proposal(name):
    assert not generated(name)


def test_proposals_are_known():
    proposed = [*(generate_slug(2) for _ in range(200)), "Tasty-Quail", "Handmade-Ox", "eta6-salk-h", "beta-tauri"]
    assert [name for name in proposed if not generated(name)] == []


def test_an_error_of_ours_is_logged_without_its_traceback():
    shown = {}
    for error in (StageError("Training diverged."), ValueError("a bug")):
        record = logging.LogRecord("x", logging.ERROR, "", 0, "failed: %r", (error,), (type(error), error, None))
        assert Sentences().filter(record)
        shown[type(error)] = (record.getMessage(), record.exc_info is None)
    assert shown == {StageError: ("Training diverged.", True), ValueError: ("failed: ValueError('a bug')", False)}


def test_the_course_of_a_long_stage_stays_small():
    course = LiveCurves()
    for step in range(1, 10 * MOST):
        course.add({"done": step, "total": 10 * MOST, "step": step, "reward": 0.5, "pass_rate": 0.5})
        assert len(course.events) <= 2 * MOST and course.events[-1]["done"] == step
    assert course.events[0]["done"] == 1 and live_png(course.events)[:4] == b"\x89PNG"
    course.add({"done": 5, "total": 9, "reward": 0.1})  # started again
    assert len(course.events) == 1


def test_a_method_in_a_form_is_followed():
    """A form sends every field; the method sets those that are at their defaults."""
    form = FORMS["grpo"].fill(load_config(presets()["smoke"])) | {"method": "pool-rescue-replay-8"}
    found = TypeAdapter(Annotated[RunConfig, FORMS["grpo"]]).validate_python(form)
    assert found == load_config(presets()["smoke"], {"method": "pool-rescue-replay-8"})
    assert found.mix.replay is not None and found.injection.gate == "dead"


@pytest.mark.parametrize("preset", ["demo", "pool-rescue"])
def test_another_method_in_a_filled_form_takes_the_place_of_the_first(preset):
    """And a value of the file that wins over the first method wins over the other."""
    adapter, path = TypeAdapter(Annotated[RunConfig, FORMS["auto-npo"]]), presets()[preset]
    form = FORMS["auto-npo"].fill(load_config(path, recipe="auto-npo"))
    assert form["method"] == {"demo": "auto-npo-prices", "pool-rescue": "pool-rescue-replay-8"}[preset]
    for method in (set(methods()) - {"past-self", "rlsd"}) | {None}:  # these leave a field to their task
        assert adapter.validate_python(form | {"method": method}) == load_config(path, {"method": method}), method
    form = FORMS["grpo"].fill(load_config(path, {"method": "rare-success-replay", "mix.replay.rows": 3}))
    assert adapter.validate_python(form | {"method": "pool-rescue-replay-8"}).mix.replay.rows == 3


def test_the_form_of_an_approval_shows_what_each_candidate_costs():
    price = Price(updates=40, tokens=12_345, seconds=9)
    figures = {"step": 60, "snapshot": "s60", "prompts": 9, "q": 0.5, "kl": 0.1, "kl_k3": 0.1, "length": 3.0}
    figures |= {"v": 1.25, "s": 0.4, "rescued": 7.0, "excluded": None}
    rows = [Scored(delta=40, price=price, **figures), Scored(delta=20, price=None, **figures)]
    out = Scored(delta=80, price=price, **figures | {"excluded": "too far"})
    text = describe(decision(candidates=[*rows, out]))
    assert text.splitlines()[-4:] == [
        "| Delta | Q | KL | V | S | updates | tokens |",
        "|---|---|---|---|---|---|---|",
        "| 40 | 0.500 | 0.1000 | 1.250 | 0.4000 | 40 | 12,345 |",
        "| 20 | 0.500 | 0.1000 | 1.250 | 0.4000 | - | - |",
    ]
    assert "roll back by Delta = 40" in text and "Because." in text
