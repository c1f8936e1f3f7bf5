"""The names that hold deploy/kubernetes together: files, ports, secrets, labels, options and commands are real ones."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml  # type: ignore[import-untyped]  # comes without types
from tests.support.manifests import (
    KUBERNETES,
    ROOT,
    Node,
    document,
    kustomizations,
    resources,
    settings,
)

from coatcheck.cli.reference import commands
from coatcheck.config import Config
from coatcheck.config_load import load

BASE, PRODUCTION = KUBERNETES / "base", KUBERNETES / "overlays" / "production"
TOML = BASE / "coatcheck.toml"
GIVE_BACK_S = 14
"""See [run] drain_seconds."""
ALL = resources()
PODS: dict[str, Node] = {
    "worker": ALL["Deployment", "coatcheck"]["spec"]["template"],
    "migrate": ALL["Job", "coatcheck-migrate"]["spec"]["template"],
    "maintain": ALL["CronJob", "coatcheck-maintain"]["spec"]["jobTemplate"]["spec"]["template"],
}
WORKER = PODS["worker"]["spec"]
CONTAINER: Node = WORKER["containers"][0]
OPTIONS = {
    f"COATCHECK_{section}__{name}".upper()
    for section, field in Config.model_fields.items()
    for name in getattr(field.annotation, "model_fields", {})
} | {"COATCHECK_CONFIG"}


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings(BASE / "settings.env").items():
        monkeypatch.setenv(name, value)


def secret(pod: str, volume: str) -> Node:
    found: Node = next(each["secret"] for each in PODS[pod]["spec"]["volumes"] if each["name"] == volume)
    return found


# -- kustomize


def test_every_file_is_named_by_a_kustomization_and_every_name_is_a_file() -> None:
    named = set()
    for folder, made in kustomizations().items():
        maps = made.get("configMapGenerator", [])
        content = [name for each in maps for name in (*each.get("files", []), *each.get("envs", []))]
        for name in [*made.get("resources", []), *made.get("components", []), *content]:
            assert (folder / name).exists(), (folder, name)
            named.add((folder / name).resolve())
        named.add(folder / "kustomization.yaml")
    files = {path for path in KUBERNETES.rglob("*") if path.is_file()}
    folders = {KUBERNETES / "base", *(KUBERNETES / "components").iterdir()}
    assert named - folders == files
    assert folders <= named, "the overlay has everything in it"


def test_components_are_components() -> None:
    for folder, made in kustomizations().items():
        assert (made["kind"] == "Component") == (folder.parent.name == "components"), folder


def patches() -> Iterator[tuple[Node, Node]]:
    """Yield (target, patch); an operation of a JSON patch each."""
    for made in kustomizations().values():
        for each in made.get("patches", []):
            target = ALL[each["target"]["kind"], each["target"]["name"].strip("^$")]
            content = yaml.safe_load(each["patch"])
            yield from ((target, change) for change in (content if isinstance(content, list) else [content]))


def test_what_is_patched_is_there() -> None:
    seen = 0
    for target, change in patches():
        if "op" in change:
            head, _, tail = change["path"].strip("/").rpartition("/")
            place = target
            for part in head.split("/"):
                place = place[part]
            assert (tail in place) == (change["op"] == "remove")
        else:
            spec = change["spec"]["template"]["spec"]
            mounts = {each["mountPath"] for each in CONTAINER["volumeMounts"]}
            assert {each["mountPath"] for each in spec["containers"][0]["volumeMounts"]} <= mounts
            assert {each["name"] for each in spec["volumes"]} <= {each["name"] for each in WORKER["volumes"]}
            assert spec["containers"][0]["name"] == CONTAINER["name"]
        seen += 1
    assert seen == 3


def test_everything_is_in_the_namespace() -> None:
    for (kind, _), each in ALL.items():
        assert each["metadata"].get("namespace") == (None if kind == "Namespace" else "coatcheck")


def test_the_overlay_replaces_the_image_of_every_pod() -> None:
    (image,) = document(PRODUCTION / "kustomization.yaml")["images"]
    assert {each["spec"]["containers"][0]["image"].partition(":")[0] for each in PODS.values()} == {image["name"]}


# -- configuration


def test_the_configuration_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(str(TOML))
    assert config.log.format == "json"
    for name, value in settings(PRODUCTION / "settings.env").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COATCHECK_KEYS__PROVIDER", "aws-kms")
    assert load(str(TOML)).keys.provider == "aws-kms"
    assert load(str(TOML)).source.queue.startswith("https://")


def test_every_variable_is_an_option() -> None:
    (component,) = document(KUBERNETES / "components" / "aws-kms" / "kustomization.yaml")["configMapGenerator"]
    literals = dict(each.split("=", 1) for each in component["literals"])
    files = [settings(path) for path in KUBERNETES.rglob("settings.env")]
    variables = {each["name"] for pod in PODS.values() for each in pod["spec"]["containers"][0]["env"]}
    assert len(files) == 2
    assert {name for each in [literals, *files] for name in each} | variables <= {*OPTIONS, "AWS_REGION"}


@pytest.mark.parametrize("pod", PODS)
def test_the_configuration_is_mounted_where_it_is_looked_for(pod: str) -> None:
    spec = PODS[pod]["spec"]
    container = spec["containers"][0]
    env = {each["name"]: each["value"] for each in container["env"]}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"] if "subPath" not in each}
    assert env["COATCHECK_CONFIG"] == f"{mounts['config']}/{TOML.name}"
    generated = {each["name"]: each for each in document(BASE / "kustomization.yaml")["configMapGenerator"]}
    (volume,) = (each["configMap"]["name"] for each in spec["volumes"] if each["name"] == "config")
    assert generated[volume]["files"] == [TOML.name]
    assert [each["configMapRef"]["name"] for each in container["envFrom"]] == ["coatcheck-settings"]
    assert "coatcheck-settings" in generated
    dsn = load(str(TOML)).target.dsn
    assert dsn is not None
    assert dsn.get_secret_value() == f"file:{mounts['database']}/url"
    assert mounts.keys() == {each["name"] for each in spec["volumes"]}


@pytest.mark.parametrize("pod", PODS)
def test_commands_are_commands(pod: str) -> None:
    container = PODS[pod]["spec"]["containers"][0]
    assert " ".join([*container["command"], *container["args"]]) in {name for name, _ in commands()}


# -- keys and logins


def test_keys_are_mounted_where_they_are_looked_for() -> None:
    """A key file that is a link is refused, as files of a mounted secret are: one comes by its subPath."""
    keys = load(str(TOML)).keys
    mounts = [each for each in CONTAINER["volumeMounts"] if each["name"] == "keyring"]
    whole, single = sorted(mounts, key=lambda each: "subPath" in each)
    assert keys.token_root is not None
    assert keys.token_root.get_secret_value() == f"file:{whole['mountPath']}/token-root.json"
    assert single["mountPath"] == str(keys.path / "seal-public.json")
    assert {each["key"] for each in secret("worker", "keyring")["items"]} == {"token-root.json", single["subPath"]}


def test_no_worker_has_the_owners_login_and_no_owner_has_keys_or_a_role() -> None:
    logins = {pod: secret(pod, "database")["secretName"] for pod in PODS}
    accounts = {pod: PODS[pod]["spec"]["serviceAccountName"] for pod in PODS}
    owner = "coatcheck-owner"
    assert logins == {"worker": "coatcheck-database", "migrate": owner, "maintain": owner}
    assert accounts == {"worker": "coatcheck", "migrate": owner, "maintain": owner}
    assert all(("ServiceAccount", name) in ALL for name in accounts.values())
    mounted = {pod: {each["name"] for each in PODS[pod]["spec"]["volumes"]} for pod in PODS}
    assert mounted["migrate"] == mounted["maintain"] == mounted["worker"] - {"keyring"}
    assert all(each["secret"]["defaultMode"] == 0o440 for pod in PODS.values() for each in pod["spec"]["volumes"]
               if "secret" in each)  # fmt: skip


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_is_as_strict_as_its_namespace(pod: str) -> None:
    """What Pod Security's level `restricted` asks for, and more."""
    spec = PODS[pod]["spec"]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert all(each["readOnly"] for each in spec["containers"][0]["volumeMounts"])
    assert ALL["Namespace", "coatcheck"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


# -- ports, labels, times


def test_the_port_is_that_of_the_metrics_everywhere() -> None:
    (port,) = CONTAINER["ports"]
    assert load(str(TOML)).metrics.listen == f":{port['containerPort']}", "every interface, not loopback"
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {each["port"] for each in probes.values()} == {port["name"]}
    (monitored,) = ALL["PodMonitor", "coatcheck"]["spec"]["podMetricsEndpoints"]
    assert (monitored["port"], monitored.get("path", "/metrics")) == (port["name"], "/metrics")
    (ingress,) = ALL["NetworkPolicy", "coatcheck"]["spec"]["ingress"]
    assert [each["port"] for each in ingress["ports"]] == [port["containerPort"]]


def test_a_worker_has_the_time_to_stop() -> None:
    assert WORKER["terminationGracePeriodSeconds"] >= load(str(TOML)).run.drain_seconds + GIVE_BACK_S + 5


def test_selectors_select_the_workers() -> None:
    labels = PODS["worker"]["metadata"]["labels"]
    selectors = [
        ALL["Deployment", "coatcheck"]["spec"]["selector"],
        ALL["PodDisruptionBudget", "coatcheck"]["spec"]["selector"],
        ALL["PodMonitor", "coatcheck"]["spec"]["selector"],
        *(each["labelSelector"] for each in WORKER["topologySpreadConstraints"]),
    ]
    assert {str(each["matchLabels"]) for each in selectors} == {str(labels)}
    policy = ALL["NetworkPolicy", "coatcheck"]["spec"]["podSelector"]["matchLabels"]
    for pod in PODS.values():
        assert policy.items() <= pod["metadata"]["labels"].items()
        assert pod is PODS["worker"] or pod["metadata"]["labels"] != labels


def test_outside_there_are_names_aws_and_the_database() -> None:
    first, agent = ALL["NetworkPolicy", "coatcheck"]["spec"]["egress"]
    assert {each["port"] for each in first["ports"]} == {53, 443, 4318, 5432}
    assert {each["ipBlock"]["cidr"] for each in agent["to"]} == {"169.254.170.23/32", "fd00:ec2::23/128"}


# -- monitoring, scaling


def test_the_rules_are_those_of_prometheus() -> None:
    ours = document(ROOT / "deploy" / "prometheus" / "alerts.yml")
    assert ALL["PrometheusRule", "coatcheck"]["spec"] == ours


def test_the_job_that_the_alerts_look_for_is_the_pods_label() -> None:
    label = ALL["PodMonitor", "coatcheck"]["spec"]["jobLabel"]
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    assert set(re.findall(r'job="([^"]+)"', alerts)) == {PODS["worker"]["metadata"]["labels"][label]}


def test_keda_counts_what_is_in_flight_and_asks_for_more_than_a_busy_worker_holds() -> None:
    scaled = ALL["ScaledObject", "coatcheck"]["spec"]
    assert ("Deployment", scaled["scaleTargetRef"]["name"]) in ALL
    (trigger,) = scaled["triggers"]
    assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in ALL
    metadata = trigger["metadata"]
    assert metadata.keys() == {"queueURLFromEnv", "awsRegion", "scaleOnInFlight", "queueLength"}
    assert all(isinstance(each, str) for each in metadata.values())
    assert (trigger["type"], metadata["scaleOnInFlight"]) == ("aws-sqs-queue", "true")
    assert int(metadata["queueLength"]) >= 3 * load(str(TOML)).source.max_in_flight
    assert metadata["queueURLFromEnv"] in settings(PRODUCTION / "settings.env")
    (replacement,) = document(PRODUCTION / "kustomization.yaml")["replacements"]
    assert replacement["source"]["fieldPath"] == "data.AWS_REGION"
    assert replacement["targets"][0]["fieldPaths"] == ["spec.triggers.0.metadata.awsRegion"]


def test_resources_leave_room_for_what_was_measured() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    flat, large = (int(found) for found in re.findall(r"\| (?:flat|large) \| [0-9,]+ \| ([0-9]+) \|", page))
    requests, limits = CONTAINER["resources"]["requests"], CONTAINER["resources"]["limits"]
    assert flat * 1e6 < int(requests["memory"].removesuffix("Mi")) * 2**20
    assert large * 1e6 < int(limits["memory"].removesuffix("Mi")) * 2**20
