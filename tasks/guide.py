"""Task: generate guidance offline from later snapshots."""

from prefect import task

from npo_core.guidance.cache import summary
from npo_core.stages.launch import StageResult
from npo_core.stages.results import GuideResult
from npo_core.stages.specs import GuideSpec
from npo_core.stages.workspace import Workspace
from tasks.artifacts import key_of, publish, table
from tasks.assets import materialized
from tasks.outside import pausable
from tasks.perform import perform, worth_retrying


@task(name="generate-guidance", task_run_name="generate guidance", retry_condition_fn=worth_retrying)
@pausable
def generate_guidance(spec: GuideSpec, label: str, run_name: str) -> StageResult[GuideResult]:
    """At most one verified-correct trajectory a prompt, in a Parquet cache."""
    result = perform(spec, label, run_name)
    made = result.result
    found = summary(Workspace(spec.workspace).guidance(made.cache))
    lengths = found["lengths"]
    publish(
        key_of(run_name, "guidance"),
        "The guidance cache and what it cost",
        "## Guidance",
        table(
            {
                "cache": f"`{made.cache}`",
                "guides": ", ".join(f"`{id_[:6]}`" for id_ in spec.guides),
                "prompts asked": made.asked,
                "prompts skipped (the scout passed them)": made.skipped,
                "trajectories": made.rows,
                "coverage Q": made.coverage,
                "tokens a trajectory": "{min} to {max}, mean {mean:.1f}".format(**lengths) if lengths else "-",
                "trajectories by guide": ", ".join(f"step {g['step']}: {g['rows']}" for g in found["guides"]),
                "tokens generated a trajectory": found["tokens_per_trajectory"],
            }
        ),
        "### Cost",
        table(result.cost.as_dict()),
        "### Settings",
        table(spec.guidance.model_dump(), ("setting", "value")),
    )
    if not result.reused:
        guides = [f"snapshots/{id_}" for id_ in spec.guides]
        told = {"cache": made.cache, "rows": made.rows}
        materialized(Workspace(spec.workspace), "cache", f"guidance/{made.cache}", run_name, guides, **told)
    return result
