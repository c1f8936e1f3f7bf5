"""The names that hold deploy/aws together, and its rights: those of deploy/iam, statement by statement."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_kms import ROLES, allowed, policy
from tests.support.manifests import ROOT, Node, resolved, statements, template

from coatcheck.cli.reference import commands
from coatcheck.config import Config
from coatcheck.config_load import load

FOUNDATION, SERVICE, LAMBDA = (template(f"{name}.yaml") for name in ("foundation", "service", "lambda"))
ACCOUNT = "111122223333"
QUEUE, DEAD = (f"arn:aws:sqs:eu-west-1:{ACCOUNT}:{name}" for name in ("logins", "logins-dead"))
TOKEN, VAULT = (f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/{name}" for name in ("token", "vault"))
PLACES = {
    "QueueArn": QUEUE,
    "DeadLetterQueueArn": DEAD,
    "TokenKeyArn": TOKEN,
    "VaultKeyArn": VAULT,
    "NewVaultKeyArn": VAULT,
    "CheckpointBucketArn": "arn:aws:s3:::trail",
    "CheckpointObjectsArn": "arn:aws:s3:::trail/coatcheck/*",
}
VALUES: dict[str, Any] = {
    "AWS::Partition": "aws",
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": "eu-west-1",
    "AWS::StackName": "coatcheck",
    "QueueName": "logins",
    "CheckpointBucket": "trail",
    "CheckpointPrefix": "coatcheck",
    "Queue.Arn": QUEUE,
    "DeadLetterQueue.Arn": DEAD,
    "TokenKey.Arn": TOKEN,
    "VaultKey.Arn": VAULT,
    "MakesLoaderRole": True,
    "NamesOfficers": False,
    **{f"{role.title()}Role.Arn": f"arn:aws:iam::{ACCOUNT}:role/{role}" for role in ROLES},
}
OPTIONS = {
    f"COATCHECK_{section}__{name}".upper()
    for section, field in Config.model_fields.items()
    for name in getattr(field.annotation, "model_fields", {})
} | {"COATCHECK_COLUMNS"}


def properties(name: str, of: Node = FOUNDATION) -> Node:
    found: Node = of["Resources"][name]["Properties"]
    return found


def container(task: str) -> Node:
    (only,) = properties(task, SERVICE)["ContainerDefinitions"]
    found: Node = only
    return found


def environment(task: str) -> dict[str, Any]:
    """Return the variables of a task by name, with the text or function that each is set to."""
    given = [each["Fn::If"][1] if "Fn::If" in each else each for each in container(task)["Environment"]]
    secrets = container(task)["Secrets"]
    return {each["Name"]: each.get("Value", each.get("ValueFrom")) for each in [*given, *secrets]}


# -- rights


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_what_deploy_iam_says(role: str) -> None:
    ours = resolved(properties(f"{role.title()}Policy")["PolicyDocument"], VALUES)
    assert statements(ours) == statements(policy(role, **PLACES))
    attached = resolved(properties(f"{role.title()}Policy")["Roles"], VALUES | {f"{role.title()}Role": "it"})
    assert attached == ["it"]


@pytest.mark.parametrize(
    ("key", "openers"),
    [("TokenKey", {"loader", "revealer", "rotator"}), ("VaultKey", {"revealer", "rotator"})],
)
def test_a_key_is_opened_by_these_roles_only_whatever_iam_says(key: str, openers: set[str]) -> None:
    delegates, denies = resolved(properties(key)["KeyPolicy"], VALUES)["Statement"]
    assert delegates["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    assert (denies["Effect"], denies["Principal"], denies["Resource"]) == ("Deny", {"AWS": "*"}, "*")
    assert {"kms:Decrypt", "kms:ReEncryptFrom", "kms:CreateGrant"} == set(denies["Action"])
    excepted = denies["Condition"].pop("ArnNotEquals")
    assert {arn.rpartition("/")[2] for arn in excepted["aws:PrincipalArn"]} == openers
    assert not denies["Condition"]


def test_a_loaders_role_of_ones_own_takes_the_place_of_ours() -> None:
    values = VALUES | {"MakesLoaderRole": False, "LoaderRoleArn": "arn:aws:iam::1:role/mine"}
    _, denies = resolved(properties("TokenKey")["KeyPolicy"], values)["Statement"]
    assert "arn:aws:iam::1:role/mine" in denies["Condition"]["ArnNotEquals"]["aws:PrincipalArn"]
    assert resolved(properties("LoaderPolicy"), values).get("Roles") is None
    assert resolved(FOUNDATION["Outputs"]["LoaderRoleArn"]["Value"], values) == "arn:aws:iam::1:role/mine"


def test_a_queue_is_spoken_to_over_tls_only() -> None:
    for queue, arn in (("Queue", QUEUE), ("DeadLetterQueue", DEAD)):
        made = resolved(properties(f"{queue}Policy"), VALUES | {queue: "url"})
        (statement,) = made["PolicyDocument"]["Statement"]
        assert (made["Queues"], statement["Resource"], statement["Effect"]) == (["url"], arn, "Deny")
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_dead_letters_come_from_this_queue_only() -> None:
    allow = resolved(properties("DeadLetterQueue"), VALUES)["RedriveAllowPolicy"]
    assert allow == {"redrivePermission": "byQueue", "sourceQueueArns": [QUEUE]}
    assert resolved(properties("DeadLetterQueue")["QueueName"], VALUES) == "logins-dead"


def test_tasks_are_started_with_the_secrets_that_they_have() -> None:
    """The loader's login and keyring for workers, the owner's login for the owner, who has no role in AWS."""
    for task, role in (("WorkerTask", "WorkerExecutionRole"), ("OwnerTask", "OwnerExecutionRole")):
        (inline,) = properties(role, SERVICE)["Policies"]
        (statement,) = inline["PolicyDocument"]["Statement"]
        readable = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        assert statement["Action"] == "secretsmanager:GetSecretValue"
        assert readable == [each["ValueFrom"] for each in container(task)["Secrets"]]
        assert properties(task, SERVICE)["ExecutionRoleArn"] == {"Fn::GetAtt": [role, "Arn"]}
    assert "TaskRoleArn" in properties("WorkerTask", SERVICE)
    assert "TaskRoleArn" not in properties("OwnerTask", SERVICE)


def test_a_new_version_migrates_before_it_works() -> None:
    """Workers have an image of their own, and without it there are none: the first ones find the tables made."""
    assert container("OwnerTask")["Image"] == {"Ref": "Image"}
    assert container("WorkerTask")["Image"] == {"Ref": "WorkerImage"}
    assert SERVICE["Parameters"]["WorkerImage"]["Default"] == ""
    of_workers = {name for name, each in SERVICE["Resources"].items() if each.get("Condition") == "RunsWorkers"}
    assert of_workers == {"WorkerTask", "Workers", "ScalableTasks", "BacklogTracking"}
    rest = json.dumps([each for name, each in SERVICE["Resources"].items() if name not in of_workers])
    assert not any(f'"{name}"' in rest for name in of_workers)


# -- names


def test_what_is_imported_is_exported() -> None:
    exported = {resolved(each["Export"]["Name"], VALUES) for each in FOUNDATION["Outputs"].values() if "Export" in each}
    imported = set(re.findall(r'ImportValue": "\$\{Foundation\}(-\w+)"', _functions(SERVICE) + _functions(LAMBDA)))
    assert {f"coatcheck{name}" for name in imported} == exported


def _functions(node: Node) -> str:
    return re.sub(r'\{"Fn::Sub": ("[^"]+")\}', r"\1", json.dumps(node))


@pytest.mark.parametrize("task", ["WorkerTask", "OwnerTask"])
def test_variables_are_options_and_commands_are_commands(task: str) -> None:
    assert environment(task).keys() <= OPTIONS
    words = [*container(task)["EntryPoint"], *container(task)["Command"]]
    assert " ".join(words) in {name for name, _ in commands()}


def test_the_worker_is_configured_by_the_outputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An output whose description is an option is what a worker's option is set to."""
    given = environment("WorkerTask")
    said = {each["Description"]: each["Export"]["Name"] for each in FOUNDATION["Outputs"].values()
            if each["Description"].startswith("COATCHECK_")}  # fmt: skip
    assert len(said) == 3
    for option, name in said.items():
        assert f"coatcheck{resolved(given[option], _Imports())}" == resolved(name, VALUES)
    monkeypatch.chdir(tmp_path)
    for name, value in given.items():
        if name != "COATCHECK_COLUMNS":
            monkeypatch.setenv(name, value if isinstance(value, str) else name.lower())
    assert load().keys.provider == "aws-kms"


class _Imports(dict[str, str]):
    """Every name is what it is called, less the stack."""

    def __missing__(self, name: str) -> str:
        return name.removeprefix("Foundation")


def test_the_function_is_configured_by_the_outputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = properties("Function", LAMBDA)["Environment"]["Variables"]
    assert given.keys() <= OPTIONS
    names = _Imports({"DatabaseSecretArn": "database", "KeyringSecretArn": "keyring", "Table": "events"})
    settings = {name: str(resolved(value, names)) for name, value in given.items()}
    assert (settings["COATCHECK_KEYS__TOKEN_KEY"], settings["COATCHECK_KEYS__VAULT_KEY"]) == (
        "-TokenKeyArn", "-VaultKeyArn",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert (load().keys.provider, load().target.table) == ("aws-kms", "events")


def test_the_function_reports_what_was_not_loaded() -> None:
    """And the times fit: AWS wants a visibility timeout of six times the function's."""
    mapping, function = properties("Mapping", LAMBDA), properties("Function", LAMBDA)
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    module, _, name = function["Handler"].rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))
    timeout, window = LAMBDA["Parameters"]["TimeoutSeconds"]["Default"], mapping["MaximumBatchingWindowInSeconds"]
    assert properties("Queue")["VisibilityTimeout"] == {"Ref": "VisibilityTimeout"}
    assert FOUNDATION["Parameters"]["VisibilityTimeout"]["Default"] >= 6 * timeout + window
    assert mapping["BatchSize"] <= Config.model_fields["batch"].get_default(call_default_factory=True).messages
    known = {f"python{minor}" for minor in re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())}
    assert set(LAMBDA["Parameters"]["Runtime"]["AllowedValues"]) == known


def test_port_and_times_are_those_of_the_configuration() -> None:
    worker = container("WorkerTask")
    (port,) = worker["PortMappings"]
    assert environment("WorkerTask")["COATCHECK_METRICS__LISTEN"] == f":{port['ContainerPort']}"
    assert f"http://127.0.0.1:{port['ContainerPort']}/livez" in worker["HealthCheck"]["Command"][-1]
    drain = Config.model_fields["run"].get_default(call_default_factory=True).drain_seconds
    assert worker["StopTimeout"] >= drain + 14 + 5


@pytest.mark.parametrize("task", ["WorkerTask", "OwnerTask"])
def test_a_container_can_change_nothing(task: str) -> None:
    made = container(task)
    assert (made["User"], made["ReadonlyRootFilesystem"]) == ("10001", True)
    assert made["LinuxParameters"] == {"Capabilities": {"Drop": ["ALL"]}}
    assert environment(task)["COATCHECK_LOG__FORMAT"] == "json"
    assert made["LogConfiguration"]["LogDriver"] == "awslogs"


def test_scaling_divides_all_the_work_by_the_tasks() -> None:
    tracking = properties("BacklogTracking", SERVICE)["TargetTrackingScalingPolicyConfiguration"]
    metrics = {each["Id"]: each for each in tracking["CustomizedMetricSpecification"]["Metrics"]}
    assert [name for name, each in metrics.items() if each["ReturnData"]] == ["backlog_per_task"]
    names = {name: each["MetricStat"]["Metric"] for name, each in metrics.items() if "MetricStat" in each}
    assert metrics["backlog_per_task"]["Expression"] == "(visible + in_flight) / tasks"
    assert {name: each["MetricName"] for name, each in names.items()} == {
        "visible": "ApproximateNumberOfMessagesVisible",
        "in_flight": "ApproximateNumberOfMessagesNotVisible",
        "tasks": "RunningTaskCount",
    }
    assert {"Name": "containerInsights", "Value": "enabled"} in properties("Cluster", SERVICE)["ClusterSettings"]
    assert "DesiredCount" not in properties("Workers", SERVICE)
    target = SERVICE["Parameters"]["BacklogPerTask"]["Default"]
    assert target >= 3 * Config.model_fields["source"].get_default(call_default_factory=True).max_in_flight


def test_alarms_watch_dead_letters_and_age() -> None:
    alarms = {name: each["Properties"] for name, each in FOUNDATION["Resources"].items()
              if each["Type"] == "AWS::CloudWatch::Alarm"}  # fmt: skip
    watched = {name: (each["MetricName"], each["Dimensions"][0]["Value"]) for name, each in alarms.items()}
    assert watched == {
        "DeadLetters": ("ApproximateNumberOfMessagesVisible", {"Fn::GetAtt": ["DeadLetterQueue", "QueueName"]}),
        "OldestMessage": ("ApproximateAgeOfOldestMessage", {"Fn::GetAtt": ["Queue", "QueueName"]}),
        "InFlightLimit": ("ApproximateNumberOfMessagesNotVisible", {"Fn::GetAtt": ["Queue", "QueueName"]}),
    }
    assert all("AlarmActions" in each for each in alarms.values())


def test_every_parameter_is_described() -> None:
    for each in (FOUNDATION, SERVICE, LAMBDA):
        assert all(len(parameter["Description"]) > 10 for parameter in each["Parameters"].values())


def test_the_loader_of_the_template_never_opens_what_it_sealed() -> None:
    document = resolved(properties("LoaderPolicy")["PolicyDocument"], VALUES)
    document["Statement"].append({"Sid": "Careless", "Effect": "Allow", "Action": "kms:*", "Resource": "*"})
    assert not allowed(document, "kms:Decrypt", VAULT)
    assert allowed(document, "kms:GenerateDataKey", VAULT)
