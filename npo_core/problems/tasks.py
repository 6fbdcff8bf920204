"""What the library that drew a problem says of a completion."""

from dataclasses import dataclass

import regex

from npo_core.errors import ConfigError
from npo_core.problems import gym, tasksets
from npo_core.problems.problem import Completion, Outcome, Verdict, found, graded
from npo_core.problems.reading.claims import answer_part, last_match


@dataclass(frozen=True)
class OfTask:
    """Scores what follows the thoughts: of Reasoning Gym the last match of the pattern, of a taskset all of it."""

    pattern: regex.Pattern

    def __call__(self, completion: Completion) -> Verdict:
        text = answer_part(completion.text)
        if completion.problem.row["library"] == "verifiers":
            return graded(tasksets.score(completion.problem.row["task"], text))
        match = last_match(text, self.pattern)
        score = self.of_gym(completion, (text if match is None else match[1]).strip())
        if match is None:  # a completion that is nothing but the answer
            return found(Outcome.CORRECT, fallback=True) if score == 1.0 else found(Outcome.UNPARSABLE)
        return found(Outcome.UNPARSABLE) if score is None else graded(score)

    def of_gym(self, completion: Completion, answer: str) -> float | None:
        """The score of an answer; None where the library's scorer raises, which it does for answers of no form."""
        try:
            score = gym.score(completion.problem.row["task"], answer, completion.problem.answer)
        except (ConfigError, MemoryError):
            raise
        except Exception:
            return None
        return min(max(score, 0.0), 1.0)
