"""A model that is split among processes samples with weights that each gathers once a rollout."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard import _fsdp_param_group as groups

from npo_core.config import Execution
from npo_core.training.exact_trainer import ExactTrainer

SHARDED = Execution(device="cpu", threads=1, processes=2, sharding="fsdp2")
STEPS = 2


@pytest.fixture
def watched(monkeypatch):
    """Fails in a process whose rollouts gather anything more than once, or in another number format."""

    def watch(dtype: torch.dtype) -> None:
        gather, generate, gathered = groups.foreach_all_gather, ExactTrainer._generate_single_turn, Counter()

        def counted(params, *args):
            gathered[id(params[0])] += 1
            found = gather(params, *args)
            assert found.all_gather_output.dtype == dtype
            return found

        def rollout(self, prompt_ids, *args):
            gathered.clear()
            result = generate(self, prompt_ids, *args)
            states = [b._get_fsdp_state() for b in self.model.modules() if isinstance(b, FSDPModule)]
            assert set(gathered.values()) == {1} and len(gathered) >= self.model.config.num_hidden_layers + 1
            assert max(map(len, result[0])) > 1, "one token needs no second gathering"
            assert not any(group.is_unsharded for state in states for group in state._fsdp_param_groups)
            gathered.clear()
            return result

        monkeypatch.setattr(groups, "foreach_all_gather", counted)
        monkeypatch.setattr(ExactTrainer, "_generate_single_turn", rollout)

    return watch


@pytest.mark.parametrize("bf16", [False, True])
def test_weights_are_gathered_once_a_rollout(bench, watched, bf16):
    ground = bench(bf16=bf16)
    watched(torch.bfloat16 if bf16 else torch.float32)
    trained = ground.train("split", STEPS, execution=SHARDED)
    assert all(row["tokens_generated"] > 0 for row in trained.steps)
