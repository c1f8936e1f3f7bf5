"""The IAM policies of deploy/iam: what each role may, what it may not, and that the code asks for nothing else."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session
from tests.support.fake_kms import POLICIES, ROLES, Policy, allowed, policy

SOURCE = Path(__file__).parents[2] / "src" / "coatcheck"
KMS = "arn:aws:kms:eu-west-1:111122223333:key/"
TOKEN, VAULT, NEW_VAULT, OTHER = (KMS + name for name in ("token", "vault", "new-vault", "other"))
QUEUE, DEAD = (f"arn:aws:sqs:eu-west-1:111122223333:{name}" for name in ("logins", "logins-dead"))
BUCKET = "arn:aws:s3:::checkpoints"
PLACES = {
    "TokenKeyArn": TOKEN,
    "VaultKeyArn": VAULT,
    "NewVaultKeyArn": NEW_VAULT,
    "QueueArn": QUEUE,
    "DeadLetterQueueArn": DEAD,
    "CheckpointBucketArn": BUCKET,
    "CheckpointObjectsArn": f"{BUCKET}/trail/*",
}
ROOT, LEDGER, DATA = "token-root", "ledger-root", "data-key"
PURPOSES = (ROOT, LEDGER, DATA)
KEYS = (TOKEN, VAULT, NEW_VAULT, OTHER)
OWN_ERRAND = {"CreateQueue"}
"""What the code can ask for and no role may: `send --create-queue` is for trying coatcheck out."""

MAY: dict[str, set[tuple[str, str, str]]] = {
    "loader": {("Decrypt", TOKEN, ROOT), ("Decrypt", TOKEN, LEDGER), ("GenerateDataKey", VAULT, DATA)},
    "revealer": {
        ("Decrypt", TOKEN, ROOT),
        ("Decrypt", TOKEN, LEDGER),
        ("Decrypt", VAULT, DATA),
        ("GenerateDataKey", VAULT, DATA),
    },
    "rotator": {
        *(
            (action, TOKEN, purpose)
            for action in ("Decrypt", "GenerateDataKeyWithoutPlaintext")
            for purpose in (ROOT, LEDGER)
        ),
        *(
            (action, key, DATA)
            for action in ("Decrypt", "GenerateDataKey", "ReEncryptFrom", "ReEncryptTo")
            for key in (VAULT, NEW_VAULT)
        ),
    },
    "eraser": set(),
    "auditor": set(),
}
"""All of KMS's cryptography that a role may do: operation, key, purpose."""

ADMINISTER: dict[str, set[tuple[str, str]]] = {
    "loader": set(),
    "revealer": set(),
    "rotator": {("DescribeKey", VAULT), ("DescribeKey", NEW_VAULT)},
    "eraser": {("DescribeKey", VAULT), ("DisableKey", VAULT), ("ScheduleKeyDeletion", VAULT)},
    "auditor": set(),
}
"""All of KMS's other operations that it may do."""

CRYPTOGRAPHY = {
    "Decrypt", "DeriveSharedSecret", "Encrypt", "GenerateDataKey", "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext", "GenerateDataKeyWithoutPlaintext", "GenerateMac", "ReEncryptFrom",
    "ReEncryptTo", "Sign", "Verify", "VerifyMac",
}  # fmt: skip


def role(name: str) -> Policy:
    return policy(name, **PLACES)


def context(purpose: str, app: str = "coatcheck") -> dict[str, str]:
    names = {"app": app, "tenant": "acme", "purpose": purpose}
    return {f"kms:EncryptionContext:{name}": value for name, value in names.items()}


def operations(service: str) -> set[str]:
    return set(Session().get_service_model(service).operation_names)


def asked_for(paths: list[Path], service: str) -> set[str]:
    """Return the operations of a service whose names stand in the code as texts."""
    known = operations(service)
    texts = {
        node.value
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return texts & known


def actions(document: Policy, prefix: str) -> set[str]:
    """Return the actions of a service that a policy allows somewhere."""
    listed = [statement["Action"] for statement in document["Statement"] if statement["Effect"] == "Allow"]
    flat = [action for entry in listed for action in ([entry] if isinstance(entry, str) else entry)]
    return {action.removeprefix(prefix) for action in flat if action.startswith(prefix)}


@pytest.mark.parametrize("name", ROLES)
def test_a_role_may_do_exactly_this_with_keys(name: str) -> None:
    document = role(name)
    may = {
        (action, key, purpose)
        for action in CRYPTOGRAPHY
        for key in KEYS
        for purpose in PURPOSES
        if allowed(document, f"kms:{action}", key, context(purpose))
    }
    assert may == MAY[name]
    others = (operations("kms") - CRYPTOGRAPHY) - {"ReEncrypt"}
    administer = {(action, key) for action in others for key in (*KEYS, "*") if allowed(document, f"kms:{action}", key)}
    assert administer == ADMINISTER[name]


@pytest.mark.parametrize("name", ROLES)
def test_no_key_is_used_for_another_application_or_without_a_context(name: str) -> None:
    document = role(name)
    for action in CRYPTOGRAPHY:
        for key in KEYS:
            assert not allowed(document, f"kms:{action}", key)
            assert not any(allowed(document, f"kms:{action}", key, context(p, "other")) for p in PURPOSES)


def test_the_loader_never_opens_what_it_sealed_whatever_else_it_is_given() -> None:
    """The deny outranks a careless kms:* in another policy of the same role, or in the key's own."""
    document = role("loader")
    careless = {"Sid": "Careless", "Effect": "Allow", "Action": "kms:*", "Resource": "*"}
    document["Statement"].append(careless)
    for action in ("Decrypt", "ReEncryptFrom", "ReEncryptTo", "CreateGrant", "PutKeyPolicy"):
        assert not any(allowed(document, f"kms:{action}", VAULT, context(purpose)) for purpose in PURPOSES)
        assert not allowed(document, f"kms:{action}", VAULT)
    assert allowed(document, "kms:GenerateDataKey", VAULT, context(DATA))


def test_the_loader_may_do_with_queues_what_the_code_asks_for() -> None:
    asked = asked_for(sorted((SOURCE / "sources").glob("*.py")), "sqs") - OWN_ERRAND
    assert {"ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"} <= asked
    needed = {operation.removesuffix("Batch") for operation in asked}  # IAM knows the single ones only
    document = role("loader")
    assert actions(document, "sqs:") == needed
    single = {name for name in operations("sqs") if not name.endswith("Batch")}
    may = {place: {name for name in single if allowed(document, f"sqs:{name}", place)} for place in (QUEUE, DEAD, "*")}
    assert may[QUEUE] == needed
    assert may[DEAD] == {"GetQueueUrl", "GetQueueAttributes", "ReceiveMessage", "DeleteMessage"}
    assert not may["*"]


@pytest.mark.parametrize("name", ["revealer", "rotator", "eraser", "auditor"])
def test_the_others_have_nothing_to_do_with_queues(name: str) -> None:
    document = role(name)
    assert not actions(document, "sqs:")
    assert not any(allowed(document, f"sqs:{action}", place) for action in operations("sqs") for place in (QUEUE, DEAD))


def test_the_auditor_keeps_checkpoints_and_removes_none() -> None:
    """Whatever else it is given: a delete marker would hide the newest checkpoint."""
    asked = asked_for([SOURCE / "vault" / "notes_s3.py"], "s3")
    assert asked == {"ListObjectsV2", "GetObject", "PutObject"}
    document, note = role("auditor"), f"{BUCKET}/trail/00000000000000000007"
    assert actions(document, "s3:") == {"ListBucket", "GetObject", "PutObject", "PutObjectRetention"}
    assert allowed(document, "s3:ListBucket", BUCKET)
    assert all(allowed(document, f"s3:{action}", note) for action in ("GetObject", "PutObject", "PutObjectRetention"))
    assert not allowed(document, "s3:PutObject", f"{BUCKET}/elsewhere")
    document["Statement"].append({"Sid": "Careless", "Effect": "Allow", "Action": "s3:*", "Resource": "*"})
    for action in ("DeleteObject", "DeleteObjectVersion", "BypassGovernanceRetention"):
        assert not allowed(document, f"s3:{action}", note)


def test_every_request_to_kms_in_the_code_is_allowed_to_somebody() -> None:
    asked = asked_for([SOURCE / "keys" / "aws_kms.py"], "kms")
    assert {"Decrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncrypt"} <= asked
    allowed_to_somebody = set().union(*(actions(role(name), "kms:") for name in ("loader", "revealer", "rotator")))
    assert (asked - {"ReEncrypt"}) | {"ReEncryptFrom", "ReEncryptTo"} == allowed_to_somebody


@pytest.mark.parametrize("name", ROLES)
def test_a_policy_names_places_and_actions_one_by_one(name: str) -> None:
    document = json.loads((POLICIES / f"{name}.json").read_text())
    for statement in document["Statement"]:
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        assert all(resource.startswith("${") and resource.endswith("}") for resource in resources), statement["Sid"]
        if statement["Effect"] == "Allow":
            assert "*" not in json.dumps(statement), statement["Sid"]
    assert len({statement["Sid"] for statement in document["Statement"]}) == len(document["Statement"])
    assert len(json.dumps(document)) < 6144  # a managed policy's limit, in characters


def test_the_page_names_every_policy_and_placeholder() -> None:
    page = (POLICIES / "README.md").read_text()
    assert {path.stem for path in POLICIES.glob("*.json")} == set(ROLES)
    for word in (*(f"`{name}.json`" for name in ROLES), *PLACES):
        assert word in page


# -- the evaluator itself

STATEMENT: Policy = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "arn:*:key/a?"}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, True),
        ({"Action": ["sqs:*", "KMS:D*"]}, True),
        ({"Action": "kms:Encrypt"}, False),
        ({"Resource": "arn:x:key/a"}, False),
        ({"Resource": ["x", "*"]}, True),
        ({"Condition": {"StringEquals": {"k": ["v", "w"]}}}, True),
        ({"Condition": {"StringEquals": {"k": "w"}}}, False),
        ({"Condition": {"StringEquals": {"k": "v", "missing": "v"}}}, False),
        ({"Condition": {"StringLike": {"k": "v*"}}}, True),
        ({"Condition": {"StringLike": {"missing": "*"}}}, False),
        ({"Effect": "Deny"}, False),
    ],
)
def test_the_evaluator(changes: dict[str, Any], verdict: bool) -> None:  # noqa: FBT001
    document: Policy = {"Version": "2012-10-17", "Statement": [STATEMENT | changes]}
    assert allowed(document, "kms:Decrypt", "arn:x:key/ab", {"k": "v"}) is verdict
    document["Statement"] += [STATEMENT | {"Effect": "Deny"}]
    assert not allowed(document, "kms:Decrypt", "arn:x:key/ab", {"k": "v"})


@pytest.mark.parametrize(
    "changes",
    [{"NotAction": "x"}, {"Principal": "*"}, {"Effect": "allow"}, {"Condition": {"NumericEquals": {"k": "1"}}}],
)
def test_what_it_does_not_know_it_does_not_judge(changes: dict[str, Any]) -> None:
    document = {"Version": "2012-10-17", "Statement": [STATEMENT | changes]}
    with pytest.raises(ValueError, match="not evaluated here"):
        allowed(document, "kms:Decrypt", "arn:x:key/ab", {"k": "v"})


def test_a_placeholder_that_is_left_out_is_no_policy() -> None:
    with pytest.raises(KeyError):
        policy("loader", TokenKeyArn=TOKEN)
