"""The configuration of one pipeline: one class per component, a description on every option.

`docs/reference/configuration.md` is generated from the descriptions. `config_load` reads it from a TOML file and the
environment; a file may hold several pipelines, which become one `Config` each.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from coatcheck.config_columns import ColumnConfig, login_columns
from coatcheck.config_file import command
from coatcheck.config_section import Section
from coatcheck.config_telemetry import TelemetryConfig
from coatcheck.pipeline.columns import Column, Kind, Mask, Parse

DEFAULT_PIPELINE = "default"
"""The name of the pipeline of a configuration without `[pipelines]`."""
_SCHEMAS_IN_USE = ("coatcheck", "information_schema")  # and pg_..., which are PostgreSQL's
_NAME_LENGTH = 63  # PostgreSQL cuts longer names


class SourceConfig(Section):
    """Where messages come from."""

    queue: str = Field("login-queue", min_length=1, description="queue name, URL or ARN")
    region: str | None = Field(None, description="AWS region; default: the AWS SDK's own search")
    profile: str | None = Field(None, description="AWS profile; default: the AWS SDK's own search")
    endpoint_url: str | None = Field(None, description="SQS endpoint; default: AWS_ENDPOINT_URL(_SQS), then AWS")
    ca_bundle: Path | None = Field(None, description="PEM file with further trusted certificates (also AWS_CA_BUNDLE)")
    wait_seconds: int = Field(20, ge=1, le=20, description="long poll, in seconds")
    receivers: int = Field(64, ge=1, le=256, description="most receive requests under way at once")
    max_in_flight: int = Field(6000, ge=10, le=120_000, description="most messages in flight per worker")
    max_in_flight_bytes: int = Field(
        64 * 2**20, ge=2**20, description="most body bytes in flight per worker (messages may be 1 MiB each)"
    )


class TargetConfig(Section):
    """Where rows go."""

    dsn: SecretStr | None = Field(
        None,
        description="secret: PostgreSQL connection string; default: DATABASE_URL, then libpq's PG* variables; "
        "another host is held to sslmode=verify-full unless they say otherwise",
    )
    password_command: Annotated[tuple[str, ...], NoDecode, BeforeValidator(command)] = Field(
        (),
        description="program (its absolute path) and arguments, run without a shell for each new connection; the first "
        "line it prints is the password",
    )
    iam: bool = Field(
        False,
        description="log in to RDS or Aurora by IAM: each new connection gets a token of its own (needs TLS, and one "
        "host, port and user); region: the host's name, then [keys] region, then the AWS SDK's own search",
    )
    login_patience_seconds: float = Field(
        120.0,
        ge=0,
        description="how long a running worker bears with a refused login (a password being changed) before it stops",
    )
    table: str = Field(
        "user_logins",
        pattern=r"^[A-Za-z_][A-Za-z0-9_$]{0,62}(\.[A-Za-z_][A-Za-z0-9_$]{0,62})?$",
        description="target table, optionally schema.table; exists, or is created by `migrate`",
    )
    partition_by: str = Field(
        "",
        description="date or timestamptz column by which `migrate` partitions a new table and `maintain` keeps the "
        "partitions of one; empty: no partitions of ours",
    )
    partition: Literal["day", "month", "year"] = Field("month", description="what one partition holds (UTC)")
    keep_partitions: int = Field(
        0, ge=0, le=10_000, description="finished partitions that `maintain` keeps; 0: it drops none"
    )
    connections: int = Field(2, ge=1, le=32, description="transactions under way at once, one connection each")
    prepare: bool = Field(
        False, description="prepare statements; leave off behind PgBouncer older than 1.21 in transaction mode"
    )
    shared_schema: bool = Field(
        False,
        description="take a table in whose schema others may create objects, such as views and functions, where "
        "those who query the table look",
    )
    suppressed: Literal["quarantine", "accept"] = Field(
        "quarantine",
        description="what becomes of a message whose row a trigger or rule of the table keeps out without an error; "
        "accept: the table puts such rows elsewhere, and `run --json` counts them as `suppressed`",
    )

    @field_validator("table")
    @classmethod
    def _in_a_schema_of_yours(cls, table: str) -> str:
        schema, dot, _ = table.casefold().rpartition(".")
        if dot and (schema in _SCHEMAS_IN_USE or schema.startswith("pg_")):
            raise ValueError(f"the schema {schema} is not for tables of yours: name another one")
        return table

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.iam and self.password_command:
            raise ValueError("password_command and iam both make the password: leave one out")
        return self


class BatchConfig(Section):
    """What one transaction takes."""

    messages: int = Field(1000, ge=1, le=20_000, description="most messages in one transaction")
    seconds: float = Field(0.1, ge=0.0, le=60, description="longest a message waits for its batch to fill, in seconds")
    bytes: int = Field(16 * 2**20, ge=2**20, description="most body bytes in one transaction")


class LedgerConfig(Section):
    """How a message is known again."""

    key: str = Field(
        "message_id",
        pattern=r"^(message_id|content|field:.*[^?\n]\??)$",
        description="what makes a message the same: message_id, content, or field:NAME (a producer's event id), "
        "without which a message is a reject; field:NAME? takes its message id instead",
    )


class KeysConfig(Section):
    """Where the keys are.

    What is called a secret also takes `env:NAME`, `file:PATH` and `aws-secretsmanager:ID[#FIELD]`.
    """

    provider: Literal["local", "aws-kms"] = Field("local", description="key provider")
    path: Path = Field(
        Path("coatcheck-keys"), description="keyring folder; a relative path starts at the configuration file"
    )
    token_root: SecretStr | None = Field(
        None, description="secret: the content of token-root.json, instead of the file in the folder"
    )
    private_key: SecretStr | None = Field(
        None, description="secret: the content of seal-private.pem, instead of the file in the folder (local)"
    )
    audit_key: SecretStr | None = Field(
        None, description="secret: the content of audit-private.pem, instead of the file in the folder"
    )
    passphrase: SecretStr | None = Field(None, description="secret: passphrase of the private keys (local, audit)")
    token_key: str = Field("", description="KMS key that wraps the token roots: ARN, id or alias (aws-kms)")
    vault_key: str = Field("", description="KMS key that wraps the data keys: ARN, id or alias (aws-kms)")
    region: str | None = Field(None, description="AWS region of KMS and Secrets Manager; default: the AWS SDK's search")
    profile: str | None = Field(None, description="AWS profile for them; default: the AWS SDK's own search")

    @model_validator(mode="after")
    def _kms_keys(self) -> Self:
        if self.provider == "aws-kms" and not (self.token_key and self.vault_key):
            raise ValueError('provider = "aws-kms" needs token_key and vault_key')
        if self.provider == "aws-kms" and self.token_key == self.vault_key:
            raise ValueError("token_key and vault_key must differ: who loads may use the one to open, not the other")
        return self


class VaultConfig(Section):
    """How the originals of tokens are kept."""

    epoch: Literal["year", "quarter", "month"] = Field(
        "quarter", description="period after which values still in use are kept anew, so that an old one can go whole"
    )
    keep_epochs: int = Field(
        0,
        ge=0,
        le=1000,
        description="finished epochs whose originals `maintain` keeps, each as long as `epoch`; 0: all",
    )
    remember: int = Field(
        65_536, ge=2, le=10_000_000, description="tokens a worker remembers as kept, about 200 bytes each"
    )


class AuditConfig(Section):
    """How checkpoints of the audit trail are made (`coatcheck audit checkpoint`)."""

    checkpoint_to: str = Field(
        "", description="where checkpoints are kept: a folder, a file, or s3://bucket/prefix; empty: standard output"
    )
    checkpoint_entries: int = Field(1000, ge=1, description="with --follow: entries after which there is another one")
    checkpoint_minutes: float = Field(
        5.0, gt=0, description="with --follow: minutes after which there is another one, if there are new entries"
    )
    retain_days: int = Field(
        3650, ge=1, le=36_500, description="days for which S3 lets nobody change or delete a checkpoint (Object Lock)"
    )


class BreakerConfig(Section):
    """When so much is rejected that the consumer stops instead of emptying the queue into quarantine."""

    ratio: float = Field(0.8, gt=0, le=1, description="share of rejects in the window at which the consumer stops")
    window: int = Field(500, ge=10, description="number of latest messages that the ratio is taken over")
    run: int = Field(200, ge=1, description="number of rejects in a row at which the consumer stops")


class RunConfig(Section):
    """How a worker stops and gives up."""

    drain_seconds: float = Field(
        15.0,
        ge=0,
        description="deadline for work in progress after SIGTERM; giving back the rest takes up to 14 s more",
    )
    give_up_seconds: float = Field(
        0.0, ge=0, description="stop with exit code 3 when a dependency stays away so long; 0: never (--drain: 60)"
    )


class LogConfig(Section):
    """How a worker tells what it meets."""

    format: Literal["text", "json"] = Field(
        "text", description="lines for people, or JSON by the Elastic Common Schema; both on stderr"
    )


class MetricsConfig(Section):
    """How a worker is watched."""

    listen: str = Field(
        "",
        pattern=r"^(\S*:[0-9]{1,5})?$",
        description='host:port, or ":port" for every interface: `run` serves /metrics (Prometheus), /livez, /readyz '
        "and /startupz there; empty: nowhere",
    )


class MaskingConfig(Section):
    """Weak modes need an explicit word."""

    allow_sha256_insecure: bool = Field(
        False, description='allow mask = "sha256-insecure": an unkeyed hash that anyone can reverse by enumeration'
    )


class Config(Section):
    """The configuration of one pipeline: its own sections, and those that all pipelines of a file share."""

    _pipeline: str = PrivateAttr(DEFAULT_PIPELINE)

    source: SourceConfig = Field(default_factory=SourceConfig, description="where messages come from")
    target: TargetConfig = Field(default_factory=TargetConfig, description="where rows go")
    columns: dict[str, ColumnConfig] = Field(
        default_factory=login_columns, min_length=1, description="column = where it comes from and what happens to it"
    )
    batch: BatchConfig = Field(default_factory=BatchConfig, description="what one transaction takes")
    ledger: LedgerConfig = Field(default_factory=LedgerConfig, description="how a message is known again")
    keys: KeysConfig = Field(default_factory=KeysConfig, description="where the keys are")
    vault: VaultConfig = Field(default_factory=VaultConfig, description="how the originals of tokens are kept")
    audit: AuditConfig = Field(default_factory=AuditConfig, description="how checkpoints of the audit trail are made")
    masking: MaskingConfig = Field(default_factory=MaskingConfig, description="weak modes need an explicit word")
    breaker: BreakerConfig = Field(default_factory=BreakerConfig, description="when too much is rejected")
    metrics: MetricsConfig = Field(default_factory=MetricsConfig, description="how a worker is watched")
    telemetry: TelemetryConfig = Field(
        default_factory=TelemetryConfig, description="where metrics and traces go by OpenTelemetry"
    )
    log: LogConfig = Field(default_factory=LogConfig, description="how a worker tells what it meets")
    run: RunConfig = Field(default_factory=RunConfig, description="how a worker stops and gives up")

    @property
    def pipeline(self) -> str:
        """The name of this pipeline, by which the database knows its table, its columns and its rejects."""
        return self._pipeline

    def named(self, pipeline: str) -> Self:
        """Return the same configuration under the name of a pipeline."""
        copy = self.model_copy()
        copy._pipeline = pipeline  # noqa: SLF001 - a copy of this very object
        return copy

    @field_validator("columns")
    @classmethod
    def _column_names(cls, columns: dict[str, ColumnConfig]) -> dict[str, ColumnConfig]:
        for name, column in columns.items():
            if (
                not name.replace("_", "a").isalnum()
                or not name.isascii()
                or len(name) > _NAME_LENGTH
                or name[0].isdigit()
            ):
                raise ValueError(f'"{name}" is no column name: letters, digits and _, at most 63')
            try:
                column.column(name)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return columns

    @model_validator(mode="after")
    def _one_form_each_domain(self) -> Self:
        self.forms()
        return self

    def forms(self) -> dict[str, tuple[object, ...]]:
        """Return what tells the canonical form of each domain apart. Raises ValueError: a domain has two."""
        forms: dict[str, tuple[object, ...]] = {}
        for name, column in self.columns.items():
            if column.domain is None:
                continue
            form = (
                column.mask is Mask.SUBNET,
                column.parse is Parse.IP,
                column.casefold,
                frozenset(column.strip_chars),
            )
            if forms.setdefault(column.domain, form) != form:
                raise ValueError(
                    f"columns: {name}: the domain {column.domain} has another canonical form in another column "
                    "(parse, casefold, strip_chars, subnet): they would never join; give one a domain of its own"
                )
        return forms

    @model_validator(mode="after")
    def _partitioned_by_time(self) -> Self:
        name = self.target.partition_by
        column = self.columns[name].column(name) if name in self.columns else None
        times = {Kind.DATE, Kind.TIMESTAMPTZ}
        if not name and self.target.keep_partitions:
            raise ValueError("target.keep_partitions: is for a table with target.partition_by")
        if name and (
            column is None or not column.stored or column.type.kind not in times or column.mask is not Mask.KEEP
        ):
            raise ValueError("target.partition_by: no column in clear of type date or timestamptz has this name")
        return self

    @model_validator(mode="after")
    def _weak_modes(self) -> Self:
        weak = [name for name, column in self.columns.items() if column.mask is Mask.SHA256_INSECURE]
        if weak and not self.masking.allow_sha256_insecure:
            raise ValueError(
                f'{", ".join(weak)}: mask = "sha256-insecure" is refused unless [masking] allow_sha256_insecure = true'
            )
        if not any(column.mask is not Mask.DROP for column in self.columns.values()):
            raise ValueError("columns: every column is dropped, nothing is left to store")
        return self

    def plan(self) -> tuple[Column, ...]:
        """Return the columns in their configured order."""
        return tuple(column.column(name) for name, column in self.columns.items())

    @property
    def watched(self) -> bool:
        """Whether anybody is told the metrics."""
        return bool(self.metrics.listen or self.telemetry.endpoint)

    def conninfo(self) -> str:
        """Return the PostgreSQL connection string (empty: libpq's own PG* variables decide)."""
        if self.target.dsn is not None:
            return self.target.dsn.get_secret_value()
        return os.environ.get("DATABASE_URL", "")
