"""Whether an engine generates with the weights it should: its log-probabilities against the trainer's model's."""

import numpy as np

from npo_core.errors import EngineError


def k3(log_r: np.ndarray) -> float:
    """KL(q || p) in nats a token from log r = log p - log q on tokens that q drew; never negative."""
    log_r = np.asarray(log_r, np.float64)
    with np.errstate(over="ignore"):  # infinite is an answer
        return float((np.expm1(log_r) - log_r).mean())


def refuse_stale(kl: float, max_kl: float, weights: str) -> None:
    """Stop where vLLM is further from the trainer's model than `max_kl`, nats a token on vLLM's own completions.

    Raises:
        EngineError: it is, or `kl` is not finite. `weights` says what vLLM should have loaded.
    """
    if not kl <= max_kl:
        raise EngineError(
            f"vLLM does not generate as {weights} does: on the first completions after it took the weights, its KL to "
            f"the trainer's own model is {kl:.3g} nats a token, engine.max_kl = {max_kl:g}. Its weights are stale or "
            "damaged, and nothing it wrote is used. Start the same command again; if that does not help, go back to "
            "transformers (engine.kind, engine.rollouts), or raise engine.max_kl if the number format explains it."
        )
