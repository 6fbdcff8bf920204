"""Asking before an intervention: the flow suspends with a form, frees the machine, and goes on where it was."""

from datetime import timedelta
from typing import Literal

from prefect.context import get_run_context
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from npo_core.control.decision import Decision
from npo_core.control.records import Approval
from npo_core.errors import ApprovalNeeded
from npo_core.recipes.records import ask_later
from npo_core.recipes.run import Run
from npo_core.reporting.decisions import priced, verdict
from tasks.outside import tell_that_it_waits

PATIENCE = timedelta(days=30)


class Answer(RunInput):
    """What to do about the proposed intervention."""

    answer: Literal["accept", "other", "decline"] = Field(
        "accept", description="accept what is proposed, choose another Delta, or go on without intervening"
    )
    delta: int | None = Field(None, description="with `other`: the Delta of one of the candidates")


def ask(run: Run, decision: Decision) -> Approval:
    """Suspend the flow run until the form is answered with something that can be done."""
    flow_run = get_run_context().flow_run
    if flow_run.deployment_id is None:  # Prefect can start only a deployment's run again
        return ask_later(run, decision)
    tell_that_it_waits(flow_run.id)
    complaint = ""
    for attempt in range(100):
        answer = suspend_flow_run(
            wait_for_input=Answer.with_initial_data(description=complaint + describe(decision)),
            key=f"decision-{decision.number}-{attempt}",
            timeout=int(PATIENCE.total_seconds()),
        )
        if (complaint := decision.complaint(answer.answer, answer.delta)) == "":
            return Approval(answer=answer.answer, delta=answer.delta, by="UI")  # it knows no more
    raise ApprovalNeeded(f"Decision {decision.number} was answered a hundred times with what cannot be done.")


def describe(decision: Decision) -> str:
    """The form's text: reason, candidates, cost."""
    able = [c for c in decision.candidates if c.excluded is None]
    rows = [
        f"| {c.delta} | {c.q:.3f} | {c.kl:.4f} | {c.v:.3f} | {c.s:.4f} | {' | '.join(priced(c)[1:3] or '--')} |"
        for c in able
    ]
    return "\n".join(
        [
            f"**Step {decision.step}: {verdict(decision)}?** {decision.reason}",
            f"Expected cost: {decision.expected['updates']:.0f} updates, {decision.expected['tokens']:,.0f} tokens.",
            "",
            "| Delta | Q | KL | V | S | updates | tokens |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ]
    )
