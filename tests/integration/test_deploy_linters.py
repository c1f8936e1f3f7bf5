"""deploy/kubernetes and deploy/aws before the linters that their users have: cfn-lint, checkov, kubernetes-validate."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.support.manifests import AWS, KUBERNETES, ROOT, documents, resource_files
from tests.support.tool_environment import environment

pytestmark = pytest.mark.xdist_group("deploy")  # checkov starts once

OLDEST, NEWEST = "1.31", "1.37"
"""Versions of Kubernetes between which the resources are valid."""
OWN_KINDS = "v1", "apps/v1", "batch/v1", "policy/v1", "networking.k8s.io/v1"
SKIPS = re.compile(r"\b(CKV\w+?_\d+)(?:=|, comment: )")


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [environment("deploy") / program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def validate(path: Path, version: str) -> None:
    done = run("kubernetes-validate", "--strict", "--kubernetes-version", version, path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cfn_lint_says_nothing() -> None:
    done = run("cfn-lint", "--", *sorted(AWS.glob("*.yaml")))
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_resources_are_kubernetes(version: str, tmp_path: Path) -> None:
    ours = [each for path in resource_files() for each in documents(path) if each["apiVersion"] in OWN_KINDS]
    assert len(ours) >= 8
    everything = tmp_path / "all.yaml"
    everything.write_text("\n---\n".join(json.dumps(each) for each in ours))
    validate(everything, version)


def test_a_misspelt_field_is_found(tmp_path: Path) -> None:
    wrong = (KUBERNETES / "base" / "deployment.yaml").read_text().replace("readinessProbe", "readynessProbe")
    (tmp_path / "wrong.yaml").write_text(wrong)
    with pytest.raises(AssertionError, match="readynessProbe"):
        validate(tmp_path / "wrong.yaml", NEWEST)


@pytest.fixture(scope="module")
def reports() -> dict[str, Any]:
    """What checkov says of each kind of file; it takes seconds to start, so it is started once."""
    kinds = ("cloudformation", "kubernetes")
    done = run("checkov", "--directory", "deploy", "--framework", *kinds, "--skip-download", "--output", "json")
    return {each["check_type"]: each["results"] | each["summary"] for each in json.loads(done.stdout)}


@pytest.mark.parametrize(("kind", "resources", "checks"), [("cloudformation", 33, 90), ("kubernetes", 14, 240)])
def test_checkov_finds_nothing(reports: dict[str, Any], kind: str, resources: int, checks: int) -> None:
    report = reports[kind]
    found = {f"{each['check_id']} {each['resource']}: {each['check_name']}" for each in report["failed_checks"]}
    assert (found, report["parsing_errors"]) == (set(), 0)
    assert report["resource_count"] >= resources
    assert report["passed"] >= checks


def test_every_skip_skips_something_and_says_why(reports: dict[str, Any]) -> None:
    skipped = [each for report in reports.values() for each in report["skipped_checks"]]
    files = [*AWS.glob("*.yaml"), *KUBERNETES.rglob("*.yaml")]
    declared = [name for path in files for name in SKIPS.findall(path.read_text())]
    assert sorted(each["check_id"] for each in skipped) == sorted(declared)
    assert all(len(each["check_result"]["suppress_comment"]) >= 12 for each in skipped)


def test_what_kustomize_makes_of_the_overlay_is_kubernetes(tmp_path: Path) -> None:
    """Not every machine has kubectl: `test_kubernetes_names.py` looks at the parts by itself."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here")
    command: list[str | Path] = [kubectl, "kustomize", KUBERNETES / "overlays" / "production"]
    built = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    (tmp_path / "built.yaml").write_text(built)
    made = documents(tmp_path / "built.yaml")
    (tmp_path / "built.yaml").write_text(
        "\n---\n".join(json.dumps(each) for each in made if each["apiVersion"] in OWN_KINDS)
    )
    validate(tmp_path / "built.yaml", NEWEST)
    (worker,) = (each for each in made if each["kind"] == "Deployment")
    container = worker["spec"]["template"]["spec"]["containers"][0]
    assert "replicas" not in worker["spec"]
    assert container["image"] == "registry.example.com/coatcheck:0.1.0"
    assert "seal-public" not in built
    (settings,) = (each for each in made if each["metadata"]["name"].startswith("coatcheck-settings"))
    assert settings["data"]["COATCHECK_KEYS__PROVIDER"] == "aws-kms"
    assert container["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}]
    (scaled,) = (each for each in made if each["kind"] == "ScaledObject")
    assert scaled["spec"]["triggers"][0]["metadata"]["awsRegion"] == settings["data"]["AWS_REGION"]
    roles = {each["metadata"]["name"]: each["metadata"] for each in made if each["kind"] == "ServiceAccount"}
    assert ["annotations" in roles[name] for name in ("coatcheck", "coatcheck-owner")] == [True, False]
