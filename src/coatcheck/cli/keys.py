"""`coatcheck keys`: make, list, rotate and retire keys. No command prints a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coatcheck import terminal
from coatcheck.cli.context import configurations, shared
from coatcheck.cli.sections import Sections
from coatcheck.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from coatcheck.config import Config
    from coatcheck.rotation import Retired
    from coatcheck.vault.retokenize import Retokenized


forget_option = click.option(
    "--forget", "gone", metavar="ID", help="Forget a database that uses the keyring no longer."
)


class _Keys(Sections):
    sections = {  # noqa: RUF012 - as in Sections
        "Keys": ("init", "list"),
        "Rotate the token key": ("rotate", "retokenize", "retire"),
        "Rotate the key that wraps data keys": ("rotate-seal", "rewrap", "retire-seal"),
    }


@click.group(cls=_Keys)
def keys() -> None:
    """Make, list, rotate and retire keys."""


def announce(config: Config, tenant: str = "default") -> None:
    """Make a keyring and say what was written."""
    from coatcheck import custody

    created = custody.create(config, tenant)
    for path in created.files:
        terminal.out(f"wrote {path}")
    for text in created.warnings:
        terminal.warn(text)


@keys.command()
@click.option("--tenant", default="default", show_default=True, help="Whose data; part of every token's key.")
@click.pass_context
def init(context: click.Context, tenant: str) -> None:
    """Make a keyring in [keys] path: token root and sealing key pair, or with AWS KMS a wrapped token root.

    Never overwrites. The local private key is encrypted with COATCHECK_KEYS__PASSPHRASE, or else stored in clear, with
    a warning.
    """
    announce(configurations(context)[0], tenant)  # one keyring for all of them, whatever their databases


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """List key ids, kinds, ages and fingerprints."""
    from coatcheck import custody, keyring

    config = configurations(context)[0]
    with keyring.found_elsewhere(config):
        rows = custody.list_keys(config)
    if as_json:
        fields = ("kid", "kind", "created", "fingerprint", "active")
        terminal.out_json([{name: getattr(row, name) for name in fields} | {"path": str(row.path)} for row in rows])
        return
    head = ("key", "kind", "created", "fingerprint", "active", "file")
    terminal.table(head, ((r.kid, r.kind, r.created, r.fingerprint, "yes" if r.active else "no", r.path) for r in rows))


@keys.command()
@click.pass_context
def rotate(context: click.Context) -> None:
    """Add a token key as the active one. Both are computed from then on, until the old one is retired.

    Loaders take the new keyring when they are started again, one after the other; groups stay whole in the view
    TABLE_current meanwhile, which all may read who may read the table.
    """
    from coatcheck import rotation

    config = shared(context)
    done = rotation.rotate(config)
    terminal.out(f"{done.new} is the active token key, {done.old} retires")
    for view in done.views:
        terminal.out(f"until then groups and joins are whole in the view {view}")
    for name in done.without_vault:
        terminal.warn(f"column {name} keeps no originals: its rows stay under {done.old} until they are loaded anew")
    terminal.note(
        "next: bring the keyring to every loader and start it again, then `coatcheck keys retokenize` and "
        f"`coatcheck keys retire {done.old}`"
    )
    _tell_others(config, done.old, "retokenize")


@keys.command()
@click.pass_context
def retokenize(context: click.Context) -> None:
    """Take vault and table to the active token key, in small steps. Needs the private key; can be resumed."""
    from coatcheck import rotation

    with terminal.progress("re-tokenizing") as show:

        def tick(done: Retokenized) -> None:
            show(done.entries + done.rows, f"{done.entries:,} entries, {done.rows:,} rows")

        done = rotation.retokenize(shared(context), tick)
    terminal.out(f"{done.entries:,} vault entries and {done.rows:,} rows are under the active key now")
    if done.mismatched:
        terminal.warn(
            f"{done.mismatched:,} vault entries are not the originals of their tokens: damaged, or planted; they stay"
        )
    if done.foreign:
        terminal.warn(
            f"{done.foreign:,} vault entries are sealed for keys that are not here, or were planted; they stay"
        )
    for name, count in done.left.items():
        terminal.warn(f"{count:,} rows of column {name} are still under the old key")


@keys.command()
@click.argument("kid")
@forget_option
@click.pass_context
def retire(context: click.Context, kid: str, gone: str | None) -> None:
    """Remove a token key for good. Refused while any of its tokens is left; a loader that still has it is shut out.

    Where several databases use the keyring, each retires the key for itself; the last one takes it out.
    """
    from coatcheck import rotation

    config = shared(context)
    _forget(config, gone)
    done = rotation.retire(config, kid)
    terminal.out(f"{kid} is retired in this database: no token of it is left, and none can be written")
    if done.others:
        raise _kept(kid, "retire", done)


@keys.command("rotate-seal")
@click.pass_context
def rotate_seal(context: click.Context) -> None:
    """Put a new seal pair in place of the one in use, and wrap all data keys anew. Tokens are not touched."""
    from coatcheck import rotation

    config = shared(context)
    done, wrapped = rotation.rotate_seal(config)
    for path in done.files:
        terminal.out(f"wrote {path}")
    for text in done.warnings:
        terminal.warn(text)
    terminal.out(f"wrapped {wrapped:,} data keys anew")
    terminal.note(
        "next: bring seal-public.json to every loader and start it again, then `coatcheck keys rewrap` and "
        f"`coatcheck keys retire-seal {done.old_id}`"
    )
    _tell_others(config, done.old_id, "rewrap")


@keys.command()
@click.pass_context
def rewrap(context: click.Context) -> None:
    """Wrap the data keys anew that are not under the present key. Can be stopped and resumed."""
    from coatcheck import rotation

    with terminal.progress("wrapping") as show:
        done = rotation.rewrap(shared(context), lambda count: show(count, f"{count:,} data keys"))
    terminal.out(f"wrapped {done:,} data keys anew")


@keys.command("retire-seal")
@click.argument("key_id")
@forget_option
@click.pass_context
def retire_seal(context: click.Context, key_id: str, gone: str | None) -> None:
    """Delete the private half of an older seal pair. Refused while a data key is wrapped under it.

    Where several databases use the keyring, each retires the key for itself; with the last one it is deleted.
    """
    from coatcheck import rotation

    config = shared(context)
    _forget(config, gone)
    done = rotation.retire_seal(config, key_id)
    if done.others:
        terminal.out(f"{key_id} is retired in this database: no data key is wrapped under it")
        raise _kept(key_id, "retire-seal", done)
    terminal.out(f"seal key {key_id} is gone")


def _tell_others(config: Config, key_id: str, command: str) -> None:
    """Name the other databases of a keyring that has changed: their loaders do not know the new key."""
    from coatcheck import rotation

    others = rotation.other_databases(config, key_id)
    if others:
        terminal.note(
            f"these databases use this keyring, too: {', '.join(others)}; run `coatcheck keys {command}` with the "
            "configuration of each before its loaders get the new key"
        )


def _forget(config: Config, gone: str | None) -> None:
    from coatcheck import custody

    if gone and not custody.forget_database(config, gone):
        raise ConfigError(f"the keyring knows no database {gone}", hint="it stands in databases.json of its folder")


def _kept(key_id: str, command: str, done: Retired) -> RefusedError:
    return RefusedError(
        f"{key_id} stays in the keyring: these databases have not let it go: {', '.join(done.others)}",
        hint=f"run `coatcheck keys {command} {key_id}` with the configuration of each; for one that no longer exists "
        "add --forget ID",
    )
