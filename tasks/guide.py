"""Task: generate guidance offline from later snapshots."""

from prefect import task

from npo_core.guidance.cache import summary
from npo_core.stages.launch import StageResult
from npo_core.stages.specs import GuideSpec
from npo_core.stages.workspace import Workspace
from tasks.artifacts import key_of, publish, table
from tasks.perform import perform, worth_retrying


@task(name="generate-guidance", task_run_name="generate guidance", retry_condition_fn=worth_retrying)
def generate_guidance(spec: GuideSpec, run_name: str) -> StageResult:
    """At most one verified-correct trajectory a prompt, in a Parquet cache."""
    result = perform(spec, "generate guidance", run_name)
    found = summary(Workspace(spec.workspace).guidance(result.result["cache"]))
    lengths = found["lengths"]
    publish(
        key_of(run_name, "guidance"),
        "The guidance cache and what it cost",
        "## Guidance",
        table(
            {
                "cache": f"`{result.result['cache']}`",
                "guides": ", ".join(f"`{id_[:6]}`" for id_ in spec.guides),
                "prompts asked": result.result["asked"],
                "prompts skipped (the scout passed them)": result.result["skipped"],
                "trajectories": result.result["rows"],
                "coverage Q": result.result["coverage"],
                "tokens a trajectory": "{min} to {max}, mean {mean:.1f}".format(**lengths) if lengths else "-",
                "trajectories by guide": ", ".join(f"step {g['step']}: {g['rows']}" for g in found["guides"]),
                "tokens generated a trajectory": found["tokens_per_trajectory"],
            }
        ),
        "### Cost",
        table(result.cost),
        "### Settings",
        table(spec.guidance.model_dump(), ("setting", "value")),
    )
    return result
