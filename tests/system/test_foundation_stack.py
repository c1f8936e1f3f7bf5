"""deploy/aws/foundation.yaml really deployed, to LocalStack, and the installed command run against its outputs.

The variables are those of service.yaml's tasks, with what they import taken from the stack. LocalStack does not decide
by policies; that they are what deploy/iam says is looked at here once more, on what was deployed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from tests.support import localstack_server
from tests.support.fake_kms import policy
from tests.support.fix_servers import LoginDatabase, Queue, logins
from tests.support.localstack_server import LocalStackServer
from tests.support.manifests import AWS, resolved, statements, template
from tests.support.process import Command, wait_until

pytestmark = [
    pytest.mark.localstack,
    pytest.mark.xdist_group("localstack"),
    pytest.mark.skipif(localstack_server.available() is not None, reason=str(localstack_server.available())),
]
SENT = 50
_numbers = itertools.count()


@dataclass
class Stack:
    """A stack that was made: its outputs, and what they are exported as."""

    url: str
    name: str
    outputs: dict[str, str]
    exports: dict[str, str]

    def client(self, service: str) -> Any:
        return client(self.url, service)

    def variables(self, task: str, **secrets: str) -> dict[str, str]:
        """Return the environment of a task of service.yaml; secrets are what the parameters of their ARNs lead to."""
        service = template("service.yaml")
        values = self.exports | secrets | {"Foundation": self.name, "Table": "user_logins", "HasColumns": False}
        (container,) = service["Resources"][task]["Properties"]["ContainerDefinitions"]
        plain = {each["Name"]: each["Value"] for each in resolved(container["Environment"], values)}
        return plain | {each["Name"]: each["ValueFrom"] for each in resolved(container["Secrets"], values)}


def client(url: str, service: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, endpoint_url=url, region_name="us-east-1", **keys)


@pytest.fixture(scope="module")
def stack(localstack: LocalStackServer) -> Iterator[Stack]:
    name = f"coatcheck-{next(_numbers)}"
    formation = client(localstack.url, "cloudformation")
    given = {"QueueName": f"{name}-logins", "CheckpointBucket": "trail", "AlarmTopicArn": "arn:aws:sns:us-east-1:1:a"}
    formation.create_stack(
        StackName=name,
        TemplateBody=(AWS / "foundation.yaml").read_text(),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
    )

    def ended() -> Any:
        (made,) = formation.describe_stacks(StackName=name)["Stacks"]
        return None if made["StackStatus"].endswith("IN_PROGRESS") else made

    made = wait_until(ended, "the stack is made")
    assert made["StackStatus"] == "CREATE_COMPLETE", formation.describe_stack_events(StackName=name)["StackEvents"]
    yield Stack(
        localstack.url,
        name,
        {each["OutputKey"]: each["OutputValue"] for each in made["Outputs"]},
        {each["ExportName"]: each["OutputValue"] for each in made["Outputs"] if "ExportName" in each},
    )
    formation.close()


@pytest.fixture
def command(tmp_path: Path, stack: Stack) -> Iterator[Command]:
    command = Command(tmp_path, {"AWS_ENDPOINT_URL": stack.url, "COATCHECK_KEYS__PATH": "coatcheck-keys"})
    yield command
    command.close()


@pytest.fixture
def queue(stack: Stack) -> Iterator[Queue]:
    queue = Queue(stack.url, stack.outputs["QueueName"])
    yield queue
    queue.close()


def test_coatcheck_runs_on_what_was_deployed(
    stack: Stack, command: Command, queue: Queue, bare_database: LoginDatabase
) -> None:
    owner = stack.variables("OwnerTask", OwnerSecretArn=bare_database.dsn)
    command("migrate", code=0, **owner)
    command("maintain", code=0, **owner)
    rotator = stack.variables("WorkerTask", DatabaseSecretArn=bare_database.dsn, KeyringSecretArn="")
    del rotator["COATCHECK_KEYS__TOKEN_ROOT"]
    command("keys", "init", code=0, **rotator)
    keyring = (command.folder / "coatcheck-keys" / "token-root.json").read_text()
    assert stack.outputs["TokenKeyArn"] in keyring

    loader = bare_database.role("coatcheck_loader")
    worker = stack.variables("WorkerTask", DatabaseSecretArn=loader, KeyringSecretArn=keyring)
    worker |= {"COATCHECK_METRICS__LISTEN": "127.0.0.1:0", "COATCHECK_KEYS__PATH": "nowhere"}
    worker |= {"COATCHECK_SOURCE__WAIT_SECONDS": "1"}
    found = command("check", "--json", code=0, **worker).out
    assert "dead-letter" not in found
    assert '"error"' not in found
    queue.send([*logins(SENT), "no JSON at all"])
    counts = command("run", "--drain", "--json", code=0, **worker).json()
    assert (counts["loaded"], counts["rejected"], counts["acked"]) == (SENT, 1, SENT + 1)
    assert bare_database.figures() == (SENT, SENT + 1, 1)
    assert bare_database.value("SELECT reason FROM coatcheck.quarantine") == "not_json"
    assert (
        bare_database.value("SELECT DISTINCT kek FROM coatcheck.data_key") == f"aws-kms:{stack.outputs['VaultKeyArn']}"
    )
    assert queue.depth() == (0, 0, 0)

    dead = Queue(stack.url, stack.outputs["DeadLetterQueueUrl"].rpartition("/")[2])
    dead.send(logins(1, first=SENT))
    dead.close()
    command("redrive", code=0, **worker)
    assert queue.depth() == (1, 0, 0)


def test_the_queues_are_as_the_template_says(stack: Stack, queue: Queue) -> None:
    def attributes(url: str) -> Any:
        return queue.call("GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])["Attributes"]

    live, dead = (attributes(stack.outputs[name]) for name in ("QueueUrl", "DeadLetterQueueUrl"))
    redrive = json.loads(live["RedrivePolicy"])
    assert (redrive["deadLetterTargetArn"], int(redrive["maxReceiveCount"])) == (dead["QueueArn"], 10)
    assert (
        json.loads(dead["RedriveAllowPolicy"])["sourceQueueArns"] == [live["QueueArn"]] == [stack.outputs["QueueArn"]]
    )
    for each in (live, dead):
        (statement,) = json.loads(each["Policy"])["Statement"]
        assert (statement["Effect"], statement["Resource"]) == ("Deny", each["QueueArn"])
        assert (each["SqsManagedSseEnabled"], each["MessageRetentionPeriod"]) == ("true", "1209600")


def test_the_roles_have_what_deploy_iam_says(stack: Stack, queue: Queue) -> None:
    outputs, iam = stack.outputs, stack.client("iam")
    places = {
        "QueueArn": queue.arn,
        "DeadLetterQueueArn": f"{queue.arn}-dead",
        "TokenKeyArn": outputs["TokenKeyArn"],
        "VaultKeyArn": outputs["VaultKeyArn"],
        "NewVaultKeyArn": outputs["VaultKeyArn"],
        "CheckpointBucketArn": "arn:aws:s3:::trail",
        "CheckpointObjectsArn": "arn:aws:s3:::trail/coatcheck/*",
    }
    for role in ("loader", "revealer", "rotator", "eraser", "auditor"):
        name = outputs[f"{role.title()}RoleArn"].rpartition("/")[2]
        (attached,) = iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
        version = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["DefaultVersionId"]
        deployed = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId=version)["PolicyVersion"]
        assert statements(deployed["Document"]) == statements(policy(role, **places)), role
    iam.close()


def test_the_keys_say_who_opens(stack: Stack) -> None:
    kms, outputs = stack.client("kms"), stack.outputs
    officers = {outputs["RevealerRoleArn"], outputs["RotatorRoleArn"]}
    for key, openers in (("TokenKeyArn", {*officers, outputs["LoaderRoleArn"]}), ("VaultKeyArn", officers)):
        document = json.loads(kms.get_key_policy(KeyId=outputs[key], PolicyName="default")["Policy"])
        denies = document["Statement"][1]
        assert (denies["Effect"], "kms:Decrypt" in denies["Action"]) == ("Deny", True)
        assert set(denies["Condition"]["ArnNotEquals"]["aws:PrincipalArn"]) == openers
        assert kms.get_key_rotation_status(KeyId=outputs[key])["KeyRotationEnabled"]
    kms.close()


def test_the_alarms_are_set(stack: Stack) -> None:
    watch = stack.client("cloudwatch")
    alarms = watch.describe_alarms()["MetricAlarms"]
    watch.close()
    watched = {(each["MetricName"], each["Dimensions"][0]["Value"]) for each in alarms}
    name = stack.outputs["QueueName"]
    assert watched == {
        ("ApproximateNumberOfMessagesVisible", f"{name}-dead"),
        ("ApproximateAgeOfOldestMessage", name),
        ("ApproximateNumberOfMessagesNotVisible", name),
    }
    assert {tuple(each["AlarmActions"]) for each in alarms} == {("arn:aws:sns:us-east-1:1:a",)}
