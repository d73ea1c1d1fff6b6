"""The files of deploy/: linted, in agreement with each other and with the server, and the image's command at work."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import slm_testing.forked as forked
from slm_serve import Settings
from slm_testing.serve.running_server import running_server
from slm_testing.serve.small_models import save_tiny_model
from slm_testing.workspace.dockerfile import Instruction, carry_out, command, environment, read_stages
from slm_testing.workspace.readme_blocks import ROOT

DEPLOY = ROOT / "deploy"
IMAGES = {"cpu": DEPLOY / "Dockerfile", "cuda": DEPLOY / "Dockerfile.cuda"}
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
CUDA_COMPOSE = yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text())
SCRAPE = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/slm-serve.json").read_text())
DEPLOYMENT = yaml.safe_load((DEPLOY / "kubernetes/deployment.yaml").read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
SERVER = COMPOSE["services"]["slm-serve"]
SECONDS_OF_THE_SERVER = 15  # after draining: 5 for the last answers, 10 until requests are cancelled
every_image = pytest.mark.parametrize("image", IMAGES)


def final_stage(image: str) -> list[Instruction]:
    return read_stages(IMAGES[image])[-1]


def values(stage: list[Instruction], name: str) -> list[str]:
    return [instruction.value for instruction in stage if instruction.name == name]


# Linters


def lint(*words: str) -> None:
    """Run a program of the environment and assert that it finds nothing."""
    program = shutil.which(words[0], path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"{words[0]} is not published for this system")
    result = subprocess.run([program, *words[1:]], cwd=DEPLOY, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_hadolint_finds_nothing_in_the_dockerfiles() -> None:
    lint("hadolint", "--failure-threshold", "style", *map(str, IMAGES.values()))


def test_the_compose_files_are_valid_by_the_specification() -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", "compose.cuda.yaml")


def test_the_manifests_are_valid_by_kubernetes_schemas() -> None:
    resources = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())["resources"]
    manifests = sorted(path.name for path in (DEPLOY / "kubernetes").iterdir() if path.name != "kustomization.yaml")
    assert sorted(resources) == manifests
    lint("kubernetes-validate", "--strict", "--quiet", *(f"kubernetes/{name}" for name in manifests))


# Images


@every_image
def test_an_image_is_built_from_the_lock_of_all_members(image: str) -> None:
    build = read_stages(IMAGES[image])[0]
    copied = {word for value in values(build, "COPY") for word in value.split()[:-1]}
    members = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("*/*/pyproject.toml"))]
    assert {"pyproject.toml", "uv.lock", "scripts/lock.py", *members} <= copied
    syncs = [word for value in values(build, "RUN") for word in re.findall(r"uv sync [^&]*", value)]
    assert len(syncs) == 2
    assert all("--frozen --no-dev" in sync and "--package slm-serve" in sync for sync in syncs)


@every_image
def test_the_context_has_what_is_copied_and_neither_tests_nor_results(image: str) -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignore if line.startswith("!")]
    assert next(line for line in ignore if not line.startswith("#")) == "*"
    build = read_stages(IMAGES[image])[0]
    copies = [step for step in build if step.name == "COPY" and not step.flags]
    for source in (word for step in copies for word in step.words[:-1]):
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) or source.startswith(f"{pattern}/") for pattern in allowed), source


@every_image
def test_the_server_of_an_image_is_no_root_and_gets_the_signal(image: str) -> None:
    stage = final_stage(image)
    assert values(stage, "USER") == ["10001"]
    assert values(stage, "ENTRYPOINT") == ['["slm-serve"]']  # exec form: the server is the process that is signalled
    assert POD["securityContext"]["runAsUser"] == 10001
    assert environment(stage)["SLM_HOST"] == "0.0.0.0"


@every_image
def test_python_and_uv_of_an_image_suit_the_workspace(image: str) -> None:
    froms = [value.split()[0] for stage in read_stages(IMAGES[image]) for value in values(stage, "FROM")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()  # type: ignore[union-attr]  # it matches
    versions = {int(name) for word in froms for name in re.findall(r"^python:3\.(\d+)-", word)}
    assert len(versions) == 1
    assert int(low) <= versions.pop() < int(high)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def healthy(stage: list[Instruction], variables: dict[str, str]) -> bool:
    """Run the command of HEALTHCHECK."""
    words = command(stage, "HEALTHCHECK")
    result = subprocess.run([sys.executable, *words[1:]], env=os.environ | variables, capture_output=True)
    return words[0] == "python" and result.returncode == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


@contextmanager
def container(stage: list[Instruction], cache: Path, *flags: str) -> Iterator[tuple[Any, dict[str, str], Path]]:
    """Start the entry point with the variables of an image, on a free port, with the cache in another folder."""
    variables = {name: value.replace("/cache", str(cache)) for name, value in environment(stage).items()}
    for name in ("PATH", "NUMBA_CACHE_DIR"):  # with an empty cache, compiling takes minutes
        del variables[name]
    variables |= {"SLM_PORT": str(free_port()), "SLM_THREADS": "1"}
    output = cache / "output.txt"
    (program,) = command(stage, "ENTRYPOINT")
    module = tomllib.loads((ROOT / "packages/slm-serve/pyproject.toml").read_text())["project"]["scripts"][program]
    process = forked.start(module.partition(":")[0], flags, output=output, errors=output, **variables)
    try:
        yield process, variables, output
    finally:
        process.kill()
        process.join()


def test_the_command_of_an_image_becomes_healthy_and_drains_within_the_grace_period(
    tiny_model: Path, tmp_path: Path
) -> None:
    stage = final_stage("cpu")
    (tmp_path / "slm_api_key").write_text("s3cret\n")
    flags = ["--secrets_dir", str(tmp_path), "--model_path", str(tiny_model)]
    with container(stage, tmp_path, *flags) as (process, variables, output):
        assert not healthy(stage, variables)
        ready = forked.wait_for_line(process, output, "ready: ", 180)
        assert ready == f"ready: http://0.0.0.0:{variables['SLM_PORT']}"
        assert healthy(stage, variables)
        os.kill(process.pid, signal.SIGTERM)
        process.join(seconds(SERVER["stop_grace_period"]))
        assert process.exitcode == 0
        assert not healthy(stage, variables)


@pytest.mark.slow(reason="installs an environment of two gigabytes from the package index")
def test_the_steps_of_the_cpu_image_install_a_server(tmp_path: Path) -> None:
    build = read_stages(IMAGES["cpu"])[0]
    committed = subprocess.run(["git", "show", ":uv.lock"], cwd=ROOT, capture_output=True, check=True).stdout
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VIRTUAL_ENV", "PYTHONPATH"):
            patch.delenv(name, raising=False)
        backend = os.environ.get("UV_TORCH_BACKEND", "cpu")  # an empty one takes torch from the usual index
        carry_out(build, ROOT, tmp_path, replace={"uv.lock": committed}, UV_TORCH_BACKEND=backend)
        version = subprocess.run([tmp_path / ".venv/bin/slm-serve", "--version"], capture_output=True, text=True)
    assert version.stdout.startswith("slm-serve ")


# Compose, Prometheus and Grafana


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_ports_are_published_on_this_machine_only() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service["ports"]]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_grace_period_is_longer_than_draining() -> None:
    draining = max(Settings().drain_timeout, float(SERVER["environment"]["SLM_DRAIN_TIMEOUT"]))
    assert seconds(SERVER["stop_grace_period"]) > draining + SECONDS_OF_THE_SERVER
    flags = CONTAINER["args"]
    draining = float(flags[flags.index("--drain_timeout") + 1])
    before = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > before + draining + SECONDS_OF_THE_SERVER


def test_files_that_compose_mounts_exist_and_secrets_are_never_committed() -> None:
    volumes = [volume for service in COMPOSE["services"].values() for volume in service.get("volumes", ())]
    sources = [volume.split(":")[0] for volume in volumes if volume.startswith("./")]
    assert len(sources) == 3
    assert all((DEPLOY / source).exists() for source in sources)
    for secret in COMPOSE["secrets"].values():
        ignored = subprocess.run(["git", "check-ignore", "--quiet", DEPLOY / secret["file"]], cwd=ROOT)
        assert ignored.returncode == 0
    assert SERVER["build"]["dockerfile"] == "deploy/Dockerfile"
    assert CUDA_COMPOSE["services"]["slm-serve"]["build"]["dockerfile"] == "deploy/Dockerfile.cuda"


def test_prometheus_reads_the_metrics_of_the_server_with_its_key() -> None:
    (job,) = SCRAPE
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert name in COMPOSE["services"]
    assert SERVER["ports"][0].endswith(f":{port}")
    key = Path(job["authorization"]["credentials_file"]).name
    assert key in COMPOSE["services"]["prometheus"]["secrets"]
    assert key in SERVER["secrets"]


def test_the_dashboard_shows_metrics_that_the_server_exports(tiny_model: Path) -> None:
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert {target["datasource"]["uid"] for target in targets} == {source["uid"]}
    queries = [target["expr"] for target in targets]
    assert all(query.count(left) == query.count(right) for query in queries for left, right in ("()", "{}", "[]"))
    shown = {name for query in queries for name in re.findall(r"slm_\w+", query)}
    with running_server(model_path=str(tiny_model)) as server:
        server.post("/generate", {"prompt": "a b", "max_new_tokens": 3})
        text = server.get(SCRAPE[0]["metrics_path"]).text
    exported = set(re.findall(r"^(slm_\w+)", text, re.MULTILINE))
    assert shown <= exported, shown - exported
    histograms = {name.removesuffix("_bucket") for name in exported if name.endswith("_bucket")}
    families = {name for name in exported if not name.endswith(("_created", "_bucket", "_sum", "_count"))} | histograms
    assert {name for name in families if name not in shown and f"{name}_bucket" not in shown} == set()


# Kubernetes


def test_the_probes_ask_the_endpoints_of_the_server(tiny_model: Path) -> None:
    probes = {name: CONTAINER[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    service = yaml.safe_load((DEPLOY / "kubernetes/service.yaml").read_text())
    assert service["spec"]["ports"][0]["targetPort"] in ports
    assert service["spec"]["selector"].items() <= DEPLOYMENT["spec"]["template"]["metadata"]["labels"].items()
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert ports["http"] == int(environment(final_stage("cpu"))["SLM_PORT"])
    with running_server(model_path=str(tiny_model), api_key="s3cret") as server:
        assert {server.get(probe["path"]).status_code for probe in probes.values()} == {200}
        server.service.drain()
        assert server.get(probes["readinessProbe"]["path"]).status_code == 503
        assert server.get(probes["livenessProbe"]["path"]).status_code == 200
