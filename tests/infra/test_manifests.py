"""What stands in infra/ for clusters:

- every file is YAML; image, Ray and KubeRay fields have the names, types and values that they have to have, and every file says what to change;
- the version of Ray is that of constraints.txt, the version of the image that of pyproject.toml and Ray's, everywhere;
- token authentication is on everywhere, containers are not root, nothing is a secret;
- what the CronJob runs names the night, waits for it, and turns its end into an exit code;
- the job's file has only keys that nightly knows; the shell script is one.
"""

import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from jobs.jobfile import names_of, read
from jobs.nightly import NightlyConfig

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
FILES = sorted([INFRA / "cluster.yaml", *INFRA.glob("kubernetes/*"), *INFRA.glob("slurm/*"), *INFRA.glob("container/*")])
RAY = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]  # type: ignore[index]
IMAGE = f"nightcap:{tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}-ray{RAY}"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def found(tree: Any, name: str) -> list[Any]:
    """Every value under a key, at any depth."""
    if isinstance(tree, dict):
        return [value for key, value in tree.items() if key == name] + [one for value in tree.values() for one in found(value, name)]
    return [one for value in tree for one in found(value, name)] if isinstance(tree, list) else []


MANIFESTS = {path.name: documents(path) for path in FILES if path.suffix == ".yaml"}


def test_images_and_ray_have_the_pinned_versions() -> None:
    images = [image for docs in MANIFESTS.values() for image in found(docs, "image")]
    assert len(images) >= 5 and set(images) == {IMAGE}
    assert found(MANIFESTS["rayjob.yaml"], "rayVersion") == [RAY]
    for path in FILES:
        for version in re.findall(r"ray(?:Version: \"| |==)(\d+\.\d+\.\d+)", path.read_text(), re.I):
            assert version == RAY, path
    assert f"-t {IMAGE} " in (INFRA / "container/Dockerfile").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_says_what_to_change_and_holds_no_secret(path: Path) -> None:
    text = path.read_text()
    assert "To change:" in text or path.suffix == ".py"
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|(?i:password|secret_access_key|auth_token)\s*[:=]\s*['\"]?[\w/+]{8}", text)
    assert "kind: Secret" not in text and not re.search(r"\b[\w-]+\.(io|com|gcr|ecr)/[\w-]+/[\w-]+:", text), "an image of a registry"


def test_the_rayjob_has_the_fields_that_kuberay_wants() -> None:
    (job,) = MANIFESTS["rayjob.yaml"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    types = {
        "entrypoint": str,
        "submissionMode": str,
        "backoffLimit": int,
        "activeDeadlineSeconds": int,
        "preRunningDeadlineSeconds": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": dict,
        "submitterConfig": dict,
    }
    assert {name: type(spec[name]) for name in types} == types and set(spec) == set(types)
    assert (
        spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode") and spec["shutdownAfterJobFinishes"] is True
    )
    cluster = spec["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "enableInTreeAutoscaling", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "work on the head dies with more than itself"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["resources"]["limits"] == container["resources"]["requests"], "Ray takes limits for what there is"
            assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_cronjob_forbids_two_at_once_and_outlives_the_night() -> None:
    (cron,), (job,) = MANIFESTS["cronjob.yaml"], MANIFESTS["rayjob.yaml"]
    assert (cron["apiVersion"], cron["kind"], cron["spec"]["concurrencyPolicy"]) == ("batch/v1", "CronJob", "Forbid")
    assert re.fullmatch(r"(\S+ ){4}\S+", cron["spec"]["schedule"])
    template = cron["spec"]["jobTemplate"]["spec"]
    assert template["activeDeadlineSeconds"] > job["spec"]["activeDeadlineSeconds"] + job["spec"]["preRunningDeadlineSeconds"]
    pod = template["template"]["spec"]
    accounts = {doc["metadata"]["name"]: doc["kind"] for doc in MANIFESTS["access.yaml"] if doc["kind"] == "ServiceAccount"}
    assert {pod["serviceAccountName"], *found(job, "serviceAccountName")} <= set(accounts)
    (kustomization,) = MANIFESTS["kustomization.yaml"]
    maps = {one["name"] for one in kustomization["configMapGenerator"]}
    assert {one["name"] for one in found([cron, job], "configMap")} <= maps
    for name in [*kustomization["resources"], *(file for one in kustomization["configMapGenerator"] for file in one["files"])]:
        assert (INFRA / "kubernetes" / name).is_file()
    (policy,) = [doc for doc in MANIFESTS["access.yaml"] if doc["kind"] == "NetworkPolicy"]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    templates = [
        cluster["template"]
        for cluster in [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    ]
    assert all(labels.items() <= one["metadata"]["labels"].items() for one in templates)


def created() -> ModuleType:
    spec = importlib.util.spec_from_file_location("create", INFRA / "kubernetes/create.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_night_stands_in_the_rayjob_and_its_end_is_an_exit_code() -> None:
    create = created()
    (job,) = MANIFESTS["rayjob.yaml"]
    made = create.of_the_night(job, "2026-01-02")
    assert made["metadata"]["name"] == "nightcap-2026-01-02" and made["metadata"]["labels"] == job["metadata"]["labels"]
    assert made["spec"]["entrypoint"] == "nightcap nightly /etc/nightcap/job.yaml --date 2026-01-02"
    assert job["spec"]["entrypoint"] == "nightcap nightly /etc/nightcap/job.yaml"
    for status, code in (
        ({}, None),
        ({"jobStatus": "RUNNING", "jobDeploymentStatus": "Running"}, None),
        ({"jobStatus": "FAILED", "jobDeploymentStatus": "Retrying"}, None),
        ({"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}, 0),
        ({"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}, 1),
        ({"jobStatus": "STOPPED"}, 1),
        ({"jobDeploymentStatus": "ValidationFailed"}, 1),
    ):
        assert create.outcome(status) == code, status


def test_ray_up_takes_the_file_of_the_cluster() -> None:
    """By Ray's own schema, after its own preparation of it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    (cluster,) = documents(INFRA / "cluster.yaml")
    validate_config(prepare_config(cluster))
    with pytest.raises(Exception, match="'worker_comands' was unexpected"):
        validate_config(prepare_config({**cluster, "worker_comands": []}))


def test_the_cluster_of_plain_machines_wants_a_token_and_keeps_the_dashboard_to_itself() -> None:
    (cluster,) = documents(INFRA / "cluster.yaml")
    assert {"cluster_name", "provider", "auth", "docker", "head_start_ray_commands", "worker_start_ray_commands"} <= set(cluster)
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert any("--dashboard-host=127.0.0.1" in line for line in cluster["head_start_ray_commands"])


def test_the_jobs_file_has_only_keys_that_nightly_knows() -> None:
    assert read(str(INFRA / "kubernetes/job.yaml"), names_of(NightlyConfig)), "the file sets nothing"


def test_the_dockerfile_is_pinned_and_not_root() -> None:
    text = (INFRA / "container/Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON=3\.11\.\d+-slim-\w+$", text, re.M) and "--constraint constraints.txt" in text
    users = re.findall(r"^USER (\S+)$", text, re.M)
    assert users and users[-1] == "10001" and "RAY_AUTH_MODE=token" in text
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M) for word in line.split()]
    allowed = (ROOT / ".dockerignore").read_text()
    assert copied and all((ROOT / name).exists() and f"!{name}\n" in allowed for name in copied)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_slurm_script_is_a_script_with_a_token() -> None:
    script = INFRA / "slurm/nightly.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = script.read_text()
    assert "RAY_AUTH_MODE=token" in text and "set -euo pipefail" in text and "--dependency=singleton" in text
