"""Task: probe the current policy on its past mistakes."""

from prefect import task

from npo_core.reporting.decisions import probe_table
from npo_core.reporting.tables import markdown
from npo_core.stages.launch import StageResult
from npo_core.stages.results import ProbeStageResult
from npo_core.stages.specs import ProbeSpec
from tasks.artifacts import key_of, publish, table
from tasks.outside import pausable
from tasks.perform import perform, worth_retrying


@task(name="probe", task_run_name="{label}", retry_condition_fn=worth_retrying)
@pausable
def probe(spec: ProbeSpec, label: str, run_name: str) -> StageResult[ProbeStageResult]:
    """One rollout on the mistake pool: pass rate on past failures, and the KL to each candidate snapshot."""
    result = perform(spec, label, run_name)
    found = result.result.probe
    publish(
        key_of(run_name, label),
        f"{label}: what the current policy makes of its past failures",
        f"## {label}",
        table(
            {
                "policy": f"`{spec.snapshot}`",
                "failures in reach": found.pool,
                "failures probed": f"{found.prompts}, {found.samples} samples each",
                "solved now": "-" if found.q is None else found.q,
            }
        ),
        "### Candidates",
        markdown(probe_table(found)),
        "### Cost",
        table(result.cost.as_dict()),
    )
    return result
