"""Random numbers by key, and what sampling records, keeps and lets go."""

from __future__ import annotations

import pytest
import torch

from npo_core.engines.noise import draw, gumbel
from npo_core.engines.sampling import Row, Sampling, sample
from npo_core.engines.transformers import TransformersEngine
from npo_core.models.inputs import read_prompts

SHARES = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02])
ROWS, POSITIONS = 500, 60


def chi_square(counts: torch.Tensor, shares: torch.Tensor) -> float:
    expected = shares * counts.sum()
    return ((counts - expected) ** 2 / expected).sum().item()


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    """[POSITIONS, ROWS] tokens."""
    logits = SHARES.log().expand(ROWS, -1)
    return torch.stack([draw(logits, gumbel(11, torch.arange(ROWS), p, len(SHARES)))[0] for p in range(POSITIONS)])


def test_draws_follow_the_probabilities(drawn):
    """0.1 % points of chi-square with 6 and 48 degrees of freedom."""
    assert chi_square(torch.bincount(drawn.flatten(), minlength=7), SHARES) < 22.5
    pairs = (SHARES[:, None] * SHARES).flatten()
    for one, other in ((drawn[:-1], drawn[1:]), (drawn[:, :-1], drawn[:, 1:])):  # positions; rows
        assert chi_square(torch.bincount((7 * one + other).flatten(), minlength=49), pairs) < 84.1


def test_a_seed_has_64_bits_and_all_of_them_count():
    rows = torch.arange(64)
    seen = {draw(SHARES.log().expand(64, -1), gumbel(2**bit, rows, 0, 7))[0].numpy().tobytes() for bit in range(64)}
    assert len(seen) == 64


def test_a_row_has_its_noise_whoever_is_beside_it(monkeypatch):
    whole = gumbel(3, torch.arange(40), 5, 1000)
    assert torch.equal(gumbel(3, torch.tensor([7, 31]), 5, 1000), whole[[7, 31]])
    monkeypatch.setattr("npo_core.engines.noise.MOST", 3000)
    assert torch.equal(gumbel(3, torch.arange(40), 5, 1000), whole)
    assert whole.mean() == pytest.approx(0.5772, abs=0.02) and whole.std() == pytest.approx(1.2825, abs=0.02)
    assert not torch.equal(gumbel(3, torch.arange(40), 6, 1000), whole)


def test_what_is_never_sampled_adds_no_entropy():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]])
    for seed in range(50):
        token, logp, entropy = draw(logits, gumbel(seed, torch.arange(1), 0, 3))
        assert token != 1
        assert logp.item() == pytest.approx(-0.6931, abs=1e-4) and entropy.item() == pytest.approx(0.6931, abs=1e-4)


def test_rows_that_have_ended_leave_and_what_is_recorded_is_the_models(models, problems, monkeypatch):
    engine, sizes = TransformersEngine(models["a"]), []
    prompts, asked = read_prompts(engine.tokenizer, problems.train[:8]), [Row(i // 8, i) for i in range(64)]
    read = lambda numbers: [prompts[number] for number in numbers]  # noqa: E731
    forward = engine.model.forward
    monkeypatch.setattr(engine.model, "forward", lambda **k: sizes.append(len(k["input_ids"])) or forward(**k))
    told = []
    ended = lambda places, ids: told.append((len(sizes), dict(zip(places, ids, strict=True))))  # noqa: E731
    rows = sample(engine.model, read, asked, Sampling(5, 12, engine.eos_ids, 0), ended=ended)
    monkeypatch.undo()
    # Whoever wants to know is told of each row once, of most while others are still sampled.
    assert sorted(place for _, found in told for place in found) == list(range(64))
    assert all(found[place] == rows[place].token_ids for _, found in told for place in found)
    assert told[0][0] < told[-1][0] == len(sizes) and len(told[-1][1]) < 32
    assert sizes[:2] == [8, 64] and sizes[-1] < 32 and sizes == [8, *sorted(sizes[1:], reverse=True)]
    scored = engine.score([problems.train[i // 8] for i in range(64)], [row.token_ids for row in rows])
    for row, logps in zip(rows, scored, strict=True):
        assert row.logprobs == pytest.approx(logps.tolist(), abs=1e-5)
        assert all(0 <= entropy <= 3 for entropy in row.entropies) and len(row.entropies) == len(logps)


def test_a_temperature_is_recorded_as_it_was_sampled(models, problems):
    engine = TransformersEngine(models["a"])
    [prompt] = read_prompts(engine.tokenizer, problems.train[:1])
    for temperature in (0.5, 2.0):
        sampling = Sampling(5, 1, engine.eos_ids, 0, temperature=temperature)
        rows = sample(engine.model, lambda _: [prompt], [Row(0, i) for i in range(4)], sampling)
        logits = engine.model(torch.tensor([prompt.ids])).logits[0, -1] / temperature
        expected = logits.log_softmax(-1)
        assert [row.logprobs[0] for row in rows] == pytest.approx([expected[row.token_ids[0]].item() for row in rows])
        assert rows[0].entropies[0] == pytest.approx(-(expected.exp() * expected).sum().item())
