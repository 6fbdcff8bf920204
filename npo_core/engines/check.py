"""Whether an engine generates with the weights it should: its log-probabilities against the trainer's model's."""

from collections.abc import Sequence

import numpy as np

from npo_core.errors import EngineError


def k3(log_r: np.ndarray) -> float:
    """KL(q || p) in nats a token from log r = log p - log q on tokens that q drew; never negative."""
    log_r = np.asarray(log_r, np.float64)
    with np.errstate(over="ignore"):  # infinite is an answer
        return float((np.expm1(log_r) - log_r).mean())


def check_weights(
    engine: Sequence[np.ndarray], trainer: Sequence[np.ndarray], *, max_kl: float, engine_name: str, weights: str
) -> float:
    """The KL, nats a token, from an engine to the trainer's model on the engine's own completions.

    Args:
        engine, trainer: log-probabilities of the same tokens, one array [T] a completion.
        weights: what the engine should have loaded.

    Raises:
        EngineError: it is above `max_kl`, or not finite.
    """
    kl = k3(np.concatenate(trainer) - np.concatenate(engine))
    if not kl <= max_kl:
        raise EngineError(
            f"{engine_name} does not generate as {weights} does: KL {kl:.3g} nats a token to the trainer's model on "
            f"its first completions after loading, engine.max_kl = {max_kl:g}. It has stale or damaged weights, and "
            "nothing it wrote is used. Start the same command again; if that does not help, take engine.kind = "
            "transformers, or raise engine.max_kl if the number format alone explains the difference."
        )
    return kl
