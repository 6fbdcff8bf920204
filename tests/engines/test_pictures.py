"""Prompts with images, asked of a tiny Qwen3-VL: by vLLM on a CPU, which runs its own processor; by transformers."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from npo_core.config import Control, EngineSettings
from npo_core.engines.transformers import TransformersEngine
from npo_core.engines.vllm import VLLMEngine
from npo_core.errors import EngineError
from npo_core.models.load import load_model, load_processor
from npo_core.models.tiny import make_tiny
from npo_core.problems.load import load_problems
from tests.models.conftest import Run

ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
TOKENS = 4


def make(source, folder, seed: int) -> None:
    """A model whose pictures matter to what it says, unlike those of weights as they are drawn."""
    make_tiny(str(source), folder, seed, head=32)
    model = load_model(folder)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights *= 6
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """Folders of two models with the rotary sections that published configurations have."""
    folder = tmp_path_factory.mktemp("seeing")
    config = AutoConfig.for_model("qwen3_vl", text_config={"rope_parameters": ROPE})
    config.save_pretrained(folder / "large")
    for seed, name in enumerate("ab"):
        make(folder / "large", folder / name, seed)
    return folder


@pytest.fixture
def run(seeing, tmp_path):
    return Run(tmp_path, seeing / "a")


@pytest.fixture
def problems(run, seeing):
    loaded = load_problems(run.problems, processor=load_processor(seeing / "a"))
    found = loaded.train + loaded.held_out
    assert {len(problem.images) for problem in found} == {0, 1, 2}
    return found


def ids(answers) -> list[list[list[int]]]:
    return [[c.token_ids for c in given] for given in answers]


@pytest.fixture
def engine(seeing, worker):
    return VLLMEngine(seeing / "a", worker)


def test_samples_share_their_prompts_pictures(seeing, problems, monkeypatch):
    """The tokens are those of prompts read once a sample; the tower sees a third of the patches."""
    engine, seen = TransformersEngine(seeing / "a"), []
    tower = engine.model.model.visual
    tower.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    shared = engine.generate(problems, samples=3, max_tokens=TOKENS, seed=5)
    monkeypatch.setattr("npo_core.engines.sampling.divide", lambda *_: False)
    assert ids(engine.generate(problems, samples=3, max_tokens=TOKENS, seed=5)) == ids(shared)
    assert len(seen) == 2 and seen[1] == 3 * seen[0] > 0


def keep_weights(worker, patch) -> None:
    """Whatever is asked for, the worker goes on with the model that it has and says that it loaded it."""
    patch.setattr(worker, "load", lambda folder, dtype: True)


def test_a_seed_gives_the_same_completions_in_whatever_batch(engine, problems):
    asked = {"samples": 3, "max_tokens": TOKENS}
    first = ids(engine.generate(problems, **asked, seed=7))
    assert ids(engine.generate(problems[::-2], **asked, seed=7)) == first[::-2]
    assert ids(engine.generate(problems, **asked, seed=8)) != first


def test_pictures_are_those_of_the_trainers_model(engine, worker, problems, monkeypatch):
    """To the last digits of float32, as without pictures; of other pictures the same tokens are far less likely."""
    found = []
    monkeypatch.setattr("npo_core.engines.vllm.refuse_stale", lambda kl, *_: found.append(kl))
    worker.load(engine.folder, "float32")
    keep_weights(worker, monkeypatch)
    engine.generate(problems, samples=4, max_tokens=TOKENS, seed=1)
    engine.own.processor.image_processor.image_mean = [0.4, 0.5, 0.6]
    engine.generate(problems, samples=4, max_tokens=TOKENS, seed=1)
    assert found[0] < 1e-9 and found[1] > 0.005


def test_another_processor_stops_it(engine, problems):
    engine.own.processor.image_processor.size = {"shortest_edge": 64**2, "longest_edge": 128**2}
    with pytest.raises(EngineError, match="vLLM read the prompt [0-9a-f]+ as [0-9]+ tokens, the trainer as [0-9]+"):
        engine.generate(problems, samples=1, max_tokens=TOKENS, seed=1)


def test_stale_weights_stop_it(seeing, engine, worker, problems, monkeypatch):
    engine.generate(problems[:1], samples=1, max_tokens=TOKENS, seed=1)
    keep_weights(worker, monkeypatch)
    with pytest.raises(EngineError, match="/b does: on the first completions .* nats a token"):
        VLLMEngine(seeing / "b", worker).generate(problems, samples=4, max_tokens=TOKENS, seed=1)


def test_the_placeholder_of_images_is_never_sampled(engine, problems):
    (never,), samples = engine.own.never_sampled, 6000
    (likely,) = engine.score(problems[:1], [[never]])
    assert samples * np.exp(likely[0]) > 10
    (drawn,) = ids(engine.generate(problems[:1], samples=samples, max_tokens=1, seed=3))
    assert [never] not in drawn


def test_stages(run, worker, monkeypatch):
    """Guidance, a probe and an evaluation, each asking about prompts with different numbers of pictures."""
    seen, generate = set(), worker.generate

    def asks(prompts, **rest):
        seen.update(len(images) for _, images, _ in prompts)
        return generate(prompts, **rest)

    def about_pictures() -> bool:
        found = 1 in seen and len(seen) > 1
        seen.clear()
        return found

    monkeypatch.setattr("npo_core.engines.vllm.worker", lambda settings, device: worker)
    monkeypatch.setattr(worker, "generate", asks)
    base = run.base()
    scout = run.train("scout", base, control=Control())
    run.common["engine"] = EngineSettings(kind="vllm")
    assert run.guide(scout, base)["rows"] > 0 and about_pictures()
    probe = run.probe(scout.record.end, base)
    assert probe["prompts"] > 0 and probe["candidates"][0]["kl_k3"] > 0 and about_pictures()
    scores = run.evaluate(base, scout.record.end)
    assert [score["step"] for score in scores] == [0, 4] and all(score["tokens"] > 0 for score in scores)
    assert about_pictures()
