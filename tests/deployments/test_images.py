"""The Dockerfile and the compose file: checked by their linters, and in step with the project."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from tests.flows.conftest import ROOT

DEPLOYMENTS = ROOT / "deployments"
DOCKERFILE = DEPLOYMENTS / "docker/Dockerfile"
COMPOSE = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())
TOOLS = Path(sys.executable).parent


def test_the_dockerfile_is_clean():
    checked = subprocess.run([TOOLS / "hadolint", DOCKERFILE], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_compose_file_follows_its_specification():
    command = [TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOYMENTS / "compose.yaml"]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def stages() -> dict[str, list[str]]:
    """The instructions of each stage of the Dockerfile, comments and line breaks taken out."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    parts = re.split(r"^FROM .* AS (\w+)$", text, flags=re.MULTILINE)
    return {name: body.strip().splitlines() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def test_images_run_unprivileged_and_with_the_tested_versions():
    found = stages()
    assert list(found) == ["python", "server", "pipeline"], "the last stage is what a build without --target makes"
    for name in ("server", "pipeline"):
        users = [line for line in found[name] if line.startswith("USER")]
        assert users == ["USER 1000"], f"Kubernetes checks a numeric user; {name} has {users}"
    installs = [line for body in found.values() for line in body if "pip install" in line]
    assert len(installs) == 3 and all("constraints.txt" in line for line in installs)
    assert "PREFECT_UI_STATIC_DIRECTORY" in "".join(found["server"]), "without it user 1000 gets no UI"


def test_the_image_holds_what_it_runs():
    """What .dockerignore lets through is in the checkout, and covers what a flow run imports."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines.index("**/.env") > lines.index("!deployments"), "deployments/.env holds passwords"
    assert "*" in lines and all((ROOT / name).exists() for name in allowed)
    assert {"npo_core", "tasks", "flows", "deployments", "prefect.yaml", "pyproject.toml", "constraints.txt"} <= allowed


def test_services_are_built_from_stages_that_exist_and_wait_for_each_other():
    services = COMPOSE["services"]
    for name in ("server", "worker"):
        build = services[name]["build"]
        assert (DEPLOYMENTS / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
        assert build["target"] in stages()
    for service in services.values():
        for needed in service.get("depends_on", {}):
            assert "healthcheck" in services[needed], f"{needed} is waited for, so it must say when it is healthy"
        for volume in service.get("volumes", []):
            source = volume.rpartition(":")[0]
            assert re.sub(r"\$\{\w+:-(\w+)\}", r"\1", source) in COMPOSE["volumes"]
    assert set(services["worker"]["profiles"]) == {"gpu"} and "profiles" not in services["server"]
    [device] = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]


def test_server_and_database_agree_and_no_password_has_a_default():
    database, server = (COMPOSE["services"][name]["environment"] for name in ("database", "server"))
    assert server["PREFECT_SERVER_DATABASE_HOST"] == "database"
    for theirs, ours in (("USER", "USER"), ("NAME", "DB"), ("PASSWORD", "PASSWORD")):
        assert server[f"PREFECT_SERVER_DATABASE_{theirs}"] == database[f"POSTGRES_{ours}"]
    worker = COMPOSE["services"]["worker"]["environment"]
    assert worker["PREFECT_API_AUTH_STRING"] == server["PREFECT_SERVER_API_AUTH_STRING"]
    for value in (server["PREFECT_SERVER_DATABASE_PASSWORD"], server["PREFECT_SERVER_API_AUTH_STRING"]):
        assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{value} must end with :?, so that compose refuses to start"


def test_compose_starts_the_pool_that_is_deployed_to():
    pools = {d["work_pool"]["name"] for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    command = shlex.join(COMPOSE["services"]["worker"]["command"])
    assert pools == {"npo"} and "--pool npo " in command
