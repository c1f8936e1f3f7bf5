"""What `coatcheck check` looks at: configuration, keys, queue and database, everything at once.

Part of the composition root.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from coatcheck import app, config_advice, custody, keyring, telemetry
from coatcheck.config import Config
from coatcheck.errors import CoatcheckError, Finding
from coatcheck.sinks.postgres import schema
from coatcheck.sources import sqs_queue
from coatcheck.sql import newest
from coatcheck.sql.connection import connect, is_verified
from coatcheck.vault.register import other_forms


async def check(config: Config) -> list[Finding]:
    """Look at configuration, keys, queue and database, and return everything that is wrong or unwise."""
    findings = [
        *config_advice.weak_columns(config),
        *config_advice.findings(config),
        *config_advice.who_can_reverse(config),
    ]
    with _as_finding(findings, "config"):
        telemetry.check(config)
    with _as_finding(findings, "keys"):
        findings += [replace(finding, hint=keyring.hint(config, finding.hint)) for finding in custody.inspect(config)]
        if not any(finding.component == "keys" and finding.level == "error" for finding in findings):
            _hold(config)
    with _as_finding(findings, "queue"):
        async with app.sqs_client(config) as client:
            state = await sqs_queue.inspect(client, config.source.queue, batch_s=config.batch.seconds)
            findings += state.findings
    with _as_finding(findings, "database"):
        if not is_verified(custody.dsn(config)):
            what = "the database's server need not prove who it is (sslmode)"
            hint = "sslmode=verify-full in [target] dsn, and sslrootcert for an authority of your own"
            findings.append(Finding("database", "advice", what, hint))
        findings += schema.inspect(
            custody.dsn(config),
            config.target.table,
            config.plan(),
            app.partitioning(config),
            config.pipeline,
            shared=config.target.shared_schema,
        ).findings
    return findings


def _hold(config: Config) -> None:
    """Hold keyring and canonical forms against a database that has been migrated. Raises CoatcheckError."""
    migrated = False
    with suppress(CoatcheckError):  # that is a finding about the database, and so is another version
        migrated = schema.version(custody.dsn(config)) == newest()
    if not migrated:
        return
    keys = keyring.loader_keys(config)
    keyring.hold(config, keys, every=False)
    with connect(custody.dsn(config)) as connection:
        keyring.note_if_possible(config, connection)
        other_forms(connection, keys.kid, custody.form_ids(config))


@contextmanager
def _as_finding(findings: list[Finding], component: Any) -> Iterator[None]:
    try:
        yield
    except CoatcheckError as error:
        findings.append(Finding(component, "error", error.message, error.hint))
