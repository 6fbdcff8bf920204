"""What is asked and whether it is right: prompts, answers, verifiers."""

from npo_core.problems.problem import Completion, ImageRef, Judge, Outcome, Problem, ProblemSet, Verdict, problem_id

__all__ = ["Completion", "ImageRef", "Judge", "Outcome", "Problem", "ProblemSet", "Verdict", "problem_id"]
