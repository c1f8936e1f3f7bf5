"""`coatcheck keys`: make and list keys. No command prints a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coatcheck import terminal

if TYPE_CHECKING:
    from coatcheck.config import Config


@click.group()
def keys() -> None:
    """Make and list keys."""


def announce(config: Config, tenant: str = "default") -> None:
    """Make a keyring and say what was written."""
    from coatcheck import app

    created = app.keys_init(config, tenant)
    for path in created.files:
        terminal.out(f"wrote {path}")
    for text in created.warnings:
        terminal.warn(text)


@keys.command()
@click.option("--tenant", default="default", show_default=True, help="Whose data; part of every token's key.")
@click.pass_context
def init(context: click.Context, tenant: str) -> None:
    """Make a local keyring (token root and sealing key pair) in [keys] path. Never overwrites.

    The private key is encrypted with COATCHECK_KEYS__PASSPHRASE, or else stored in clear, with a warning.
    """
    from coatcheck.config import load

    announce(load(context.obj), tenant)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """List key ids, kinds, ages and fingerprints."""
    from coatcheck import app
    from coatcheck.config import load

    rows = app.keys_list(load(context.obj))
    if as_json:
        fields = ("kid", "kind", "created", "fingerprint", "active")
        terminal.out_json([{name: getattr(row, name) for name in fields} | {"path": str(row.path)} for row in rows])
        return
    head = ("key", "kind", "created", "fingerprint", "active", "file")
    terminal.table(head, ((r.kid, r.kind, r.created, r.fingerprint, "yes" if r.active else "no", r.path) for r in rows))
