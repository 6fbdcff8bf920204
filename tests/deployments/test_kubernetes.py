"""The base job template for Kubernetes: what a run's job becomes, and what an evicted one leaves to the next."""

import json
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import yaml
from prefect.utilities.templating import apply_values, find_placeholders

from tests.deployments.conftest import deployed_run
from tests.flows.conftest import ROOT, ask, family, finish

TEMPLATE = ROOT / "deployments/kubernetes/work-pool.json"
PREFECT = (sys.executable, "-m", "prefect")


def rendered(**values: Any) -> dict[str, Any]:
    """The job's configuration with a deployment's variables, filled in as a worker does."""
    template = json.loads(TEMPLATE.read_text())
    fields = template["variables"]["properties"].items()
    defaults = {name: field["default"] for name, field in fields if field.get("default") is not None}
    return apply_values(template["job_configuration"], defaults | values)


def test_every_placeholder_is_a_variable_and_every_variable_is_used():
    template = json.loads(TEMPLATE.read_text())
    used = {placeholder.name for placeholder in find_placeholders(template["job_configuration"])}
    assert used == set(template["variables"]["properties"])
    for name, field in template["variables"]["properties"].items():
        assert field.get("title") and field.get("description"), f"{name} has nothing to show in the form"


def test_a_job_gets_its_gpu_its_memory_and_its_secrets():
    job = rendered(image="registry/npo:1", gpus=2, shm_size="32Gi", node_selector={"gpu": "h200"})
    pod = job["job_manifest"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2 and container["image"] == "registry/npo:1"
    assert container["envFrom"] == [{"secretRef": {"name": "npo-s3", "optional": True}}]
    assert rendered()["job_manifest"] == rendered(gpus=1, image="npo:latest")["job_manifest"]
    assert pod["nodeSelector"] == {"gpu": "h200"} and pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Gi"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"shm": "/dev/shm", "scratch": "/scratch", "data": "/data"} and set(mounts) == set(volumes)
    assert job["env"]["NPO_HOME"].startswith("/scratch/")


def test_a_job_ends_as_prefect_expects():
    """Prefect reschedules an evicted run only with a backoff limit of 0; stages are given time to end."""
    job = rendered()["job_manifest"]["spec"]
    pod = job["template"]["spec"]
    assert job["backoffLimit"] == 0 and job["activeDeadlineSeconds"] > 0
    assert pod["terminationGracePeriodSeconds"] == 60
    # What prefect-kubernetes demands of a manifest.
    assert (pod["parallelism"], pod["completions"], pod["restartPolicy"]) == (1, 1, "Never")
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000


@pytest.mark.parametrize(("index", "expected"), [("0", "flow of 2"), ("1", "join job-x-0.npo-runs:29500 1 of 2")])
def test_of_several_pods_the_first_runs_the_flow_and_the_others_join(tmp_path, index, expected):
    spec = rendered(nodes=2)["job_manifest"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}  # the others never end
    pod = spec["template"]
    text = (TEMPLATE.parent / "worker.yaml").read_text()
    [service] = [document for document in yaml.safe_load_all(text) if document["kind"] == "Service"]
    assert service["metadata"]["name"] == pod["spec"]["subdomain"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    [policy] = [document["spec"] for document in yaml.safe_load_all(text) if document["kind"] == "NetworkPolicy"]
    runs = {"podSelector": {"matchLabels": pod["metadata"]["labels"]}}
    assert policy == {**runs, "policyTypes": ["Ingress"], "ingress": [{"from": [runs]}]}
    npo = tmp_path / "npo"
    npo.write_text('#!/bin/sh\necho "$1 $MASTER_ADDR:$MASTER_PORT $JOB_COMPLETION_INDEX of $NPO_NODES"\n')
    npo.chmod(0o755)
    command = pod["spec"]["containers"][0]["command"]
    assert command[:3] == ["tini", "-g", "--"]  # the image's entry point, which `command` replaces
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOSTNAME": f"job-x-{index}", "JOB_COMPLETION_INDEX": index}
    flow = ["sh", "-c", 'echo "flow of $NPO_NODES"']
    said = subprocess.run([*command[3:], *flow], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == expected


def test_the_server_takes_the_template(server):
    made = finish(
        [*PREFECT, "work-pool", "create", "npo-gpu", "--type", "kubernetes", "--base-job-template", str(TEMPLATE)],
        server,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert ask(server, "work_pools/npo-gpu")["base_job_template"] == json.loads(TEMPLATE.read_text())


def test_an_evicted_job_is_taken_up_by_the_next(server, tmp_path):
    """What Kubernetes does to a pod: SIGTERM to its command; Prefect schedules the run again, and a new pod goes on."""
    workspace = tmp_path / "run"
    run = deployed_run(server, "evicted", workspace, {"snapshot_every": 1})
    pod = {"PREFECT__FLOW_RUN_ID": run, "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule"}
    command = [*PREFECT, "flow-run", "execute"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, env=server | pod, cwd=ROOT, stdout=log, stderr=log)
    deadline = time.monotonic() + 600
    while not list(workspace.glob("segments/*/mark-*.json")):
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.02)
    processes = family(process)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=120)
    assert ask(server, f"flow_runs/{run}")["state"]["name"] == "AwaitingRetry", (tmp_path / "log").read_text()
    assert len(processes) > 2 and not any(p.is_running() for p in processes)
    again = finish(command, server | pod)
    state = ask(server, f"flow_runs/{run}")["state"]
    assert state["type"] == "COMPLETED", again.stdout + again.stderr
    assert len(list(workspace.glob("stages/train-*/result.json"))) == 1
