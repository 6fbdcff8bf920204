"""Scores of a policy on held-out problems, as they are kept."""

from pydantic import Field

from npo_core.timeline.records import Record


class Score(Record):
    """pass@1 at temperature 1, estimated from several samples a problem (also called avg@k), of one data set."""

    pass_rate: float = Field(description="mean over problems of the share of correct samples")
    standard_error: float = Field(description="of that mean, over problems")
    by_difficulty: dict[int | str, float]
    by_difficulty_error: dict[int | str, float] = Field({}, description="standard error of each, over problems")
    by_difficulty_problems: dict[int | str, int] = Field({}, description="how many of each")
    pass_at_k: dict[int, float] = Field(description="unbiased estimate for k = 1 .. samples")
    pass_at_k_error: dict[int, float] = Field({}, description="standard error of each, over problems")
    problems: int
    samples: int
    tokens: int = Field(description="generated")
    unfinished: int = Field(0, description="completions that did not end by themselves")
    unparsable: int | None = Field(None, description="completions without an answer that the verifier can read")
    unverified: int = Field(0, description="completions whose verification failed; they count nowhere")


class HeldOutScore(Score):
    """The score on the held-out problems, and on each further data set that was asked."""

    benchmarks: dict[str, Score] = Field({}, exclude_if=lambda found: not found)


class SnapshotScore(HeldOutScore):
    """The score of a snapshot, as it is kept under `evaluations/`."""

    snapshot: str
    step: int
