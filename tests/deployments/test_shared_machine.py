"""What a shared machine's form may start: the pool takes command and environment away, the worker lists the rest."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.deployments.conftest import deployed_run
from tests.flows.conftest import ROOT, ask, finish

PREFECT = (sys.executable, "-m", "prefect")
TEMPLATE = "deployments/process/shared-pool.json"


@pytest.fixture
def config(tmp_path) -> dict:
    """A configuration whose function leaves a file as soon as its module is imported."""
    (tmp_path / "modules").mkdir()
    body = "def reward(prompt, completion, answer):\n    return True\n"
    (tmp_path / "modules/foreign.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n{body}")
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 9)
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")
    problems = {"kind": "data", "train": {"path": str(tmp_path / "rows.jsonl")}, "held_out_rows": 1}
    return {
        "problems": problems | {"verifier": {"kind": "function", "path": "foreign:reward"}},
        "model": {"kind": "pretrained", "path": str(tmp_path / "model")},
        "training": {"prompts_per_step": 2},
    }


def test_a_form_can_neither_name_a_module_nor_lift_the_list(server, config, tmp_path):
    tricks = {"env": {"NPO_ALLOWED_MODULES": "foreign"}, "command": f"touch {tmp_path}/started"}
    run = deployed_run(server, "shared", tmp_path / "run", config=config, job_variables=tricks, template=TEMPLATE)
    assert ask(server, f"flow_runs/{run}")["job_variables"] == tricks
    worker = server | {"NPO_ALLOWED_MODULES": "team", "PYTHONPATH": str(tmp_path / "modules")}
    done = finish([*PREFECT, "worker", "start", "--pool", "shared", "--type", "process", "--run-once"], worker)
    state = ask(server, f"flow_runs/{run}")["state"]
    said = "function foreign:reward comes from the module foreign, which this machine does not allow"
    assert state["type"] == "FAILED" and said in state["message"], state["message"] + done.stdout + done.stderr
    assert not (tmp_path / "imported").exists() and not (tmp_path / "started").exists()


def test_without_the_list_the_same_module_is_imported(server, config, tmp_path):
    """So that the test above would see it."""
    run = deployed_run(server, "own", tmp_path / "run", config=config, template=TEMPLATE)
    worker = server | {"PYTHONPATH": str(tmp_path / "modules")}
    finish([*PREFECT, "worker", "start", "--pool", "own", "--type", "process", "--run-once"], worker)
    assert (tmp_path / "imported").exists(), ask(server, f"flow_runs/{run}")["state"]["message"]


def test_no_port_is_open_to_the_world_and_every_server_asks_for_a_password():
    compose = yaml.safe_load((ROOT / "deployments/compose.yaml").read_text())["services"]
    ports = [port for service in compose.values() for port in service.get("ports", [])]
    assert ports == ["${NPO_BIND:-127.0.0.1}:4200:4200"]
    documents = [
        document
        for file in sorted((ROOT / "deployments/kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
    ]
    assert {d["spec"]["type"] for d in documents if d["kind"] == "Service"} == {"ClusterIP"}
    assert not any(document["kind"] == "Ingress" for document in documents)
    assert not any(word in json.dumps(documents) for word in ("hostPort", "hostNetwork", "NodePort"))
    containers = [
        container
        for document in documents
        if document["kind"] in ("Deployment", "StatefulSet")
        for container in document["spec"]["template"]["spec"]["containers"]
    ]
    secret = {
        variable["name"]: variable["valueFrom"]["secretKeyRef"]["name"]
        for container in containers
        for variable in container["env"]
        if "valueFrom" in variable
    }
    wanted = {"PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_DATABASE_PASSWORD"}
    assert wanted | {"POSTGRES_PASSWORD", "PREFECT_SERVER_ENCRYPTION_KEY"} == set(secret)
    assert set(secret.values()) == {"npo-server"}


def test_a_local_server_is_asked_by_its_own_pages_only(server):
    """A page of another site in the same browser may not use the server of `make serve`, which has no password."""
    import urllib.request

    url = server["PREFECT_API_URL"]
    own = url.removesuffix("/api")
    for origin, allowed in ((own, True), ("http://evil.example", False)):
        request = urllib.request.Request(f"{url}/health", headers={"Origin": origin})
        with urllib.request.urlopen(request) as answer:
            assert (answer.headers.get("Access-Control-Allow-Origin") == origin) == allowed
            assert answer.headers.get("Access-Control-Allow-Origin") != "*"


def test_the_workers_jobs_take_the_password_from_the_secret():
    """prefect-kubernetes would write it into every job's manifest otherwise."""
    text = (ROOT / "deployments/kubernetes/worker.yaml").read_text()
    prefix = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET"
    assert f"{prefix}_NAME, value: npo-server" in text and f"{prefix}_KEY, value: auth" in text
    assert Path(ROOT / "deployments/kubernetes/server.yaml").read_text().count("key: auth") == 1
