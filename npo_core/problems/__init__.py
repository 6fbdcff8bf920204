"""What is asked and whether it is right: prompts, answers, verifiers."""

from npo_core.problems.problem import Outcome, Problem, ProblemSet, Verifier, problem_id

__all__ = ["Outcome", "Problem", "ProblemSet", "Verifier", "problem_id"]
