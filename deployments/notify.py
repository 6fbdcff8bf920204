"""Tell a chat or a pager of failed runs, of decisions, and of runs that wait for an answer.

    NPO_NOTIFY_URL=https://hooks.example.com/... python deployments/notify.py

makes the block `npo-notify`, which posts {"text": ...} to that address as Slack, Mattermost and others take it, and
three automations that use it. The address is kept as a secret of the block. Run it again to change the address.
"""

import os
import sys

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore

BLOCK, URL = "npo-notify", "NPO_NOTIFY_URL"
RUN = "{{ flow_run.name }} ({{ flow_run|ui_url }})"
WANTED = {  # name: what it hears, of which resource, and what it says
    "Tell of failed runs": (
        ["prefect.flow-run.Failed", "prefect.flow-run.Crashed"],
        "prefect.flow-run.*",
        ("NPO: a run {{ flow_run.state.name }}", RUN + ": {{ flow_run.state.message }}"),
    ),
    "Tell of decisions": (
        ["npo.decision.made"],
        "npo.workspace.*",
        ("NPO: a decision", "{{ event.payload.text }} Workspace: {{ event.payload.workspace }}"),
    ),
    "Tell of runs that wait for an answer": (
        ["npo.flow-run.waits"],
        "prefect.flow-run.*",
        ("NPO: a run waits for an answer", RUN + ": press Resume to see the question"),
    ),
}


def automation(name: str, block: str) -> AutomationCore:
    """The automation of a name, which sends by the block of an id."""
    expect, resource, (subject, body) = WANTED[name]
    return AutomationCore.model_validate(
        {
            "name": name,
            "trigger": {
                "type": "event",
                "posture": "Reactive",
                "expect": expect,
                "match": {"prefect.resource.id": resource},
                "threshold": 1,
                "within": 0,
            },
            "actions": [{"type": "send-notification", "block_document_id": block, "subject": subject, "body": body}],
        }
    )


def main() -> None:
    """Write block and automations anew, or say what is missing."""
    if not (url := os.environ.get(URL)):
        sys.exit(f"Error: {URL} must be set: give the address that takes the messages.")
    text = {"text": "{{subject}}\n{{body}}"}
    block = CustomWebhookNotificationBlock(name=BLOCK, url="{{url}}", json_data=text, secrets={"url": url})
    id_ = block.save(BLOCK, overwrite=True, _sync=True)
    with get_client(sync_client=True) as client:
        for name in WANTED:
            for old in client.read_automations_by_name(name):
                client.delete_automation(old.id)
            client.create_automation(automation(name, str(id_)))
    print(f"The block {BLOCK} and {len(WANTED)} automations are there: {', '.join(WANTED)}.")


if __name__ == "__main__":
    main()
