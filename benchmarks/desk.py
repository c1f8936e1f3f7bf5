"""How long it takes to get 50 originals back, once they are approved: from the opening on the trail to the text.

    python -m benchmarks.desk --runs 20

Connection, opening, fetch, decryption, the comparison with the tokens and the report; local keys, so no key service.
The last line says whether the median stayed under 200 ms; so does the exit code.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psycopg

from coatcheck import app, custody, desk
from coatcheck.config import Config
from coatcheck.demo.servers import PostgresServer
from coatcheck.keys import Sealer
from coatcheck.keys.local import create
from coatcheck.vault.store import vault_context

TOKENS, LIMIT_MS, EPOCH = 50, 200.0, 20264


def fill(config: Config, dsn: str) -> list[str]:
    """Put originals into the vault; return their tokens."""
    keys = custody.loader_keys(config)
    sealer, tokenizer, form = Sealer(keys), custody.tokenizer(keys), custody.forms(config.plan())["device"]
    tokens = [tokenizer.token("device", f"device-{number}", form) for number in range(TOKENS)]
    with psycopg.connect(dsn, autocommit=True) as connection:
        for number, token in enumerate(tokens):
            sealed = sealer.seal(f"device-{number}".encode(), *vault_context(token, EPOCH))
            data_key = sealer.data_key(sealed.dek_id)
            connection.execute(
                "INSERT INTO coatcheck.data_key (dek_id, kek, wrapped) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                [data_key.dek_id.hex(), data_key.kek, data_key.wrapped],
            )
            connection.execute(
                "INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext) VALUES (%s, %s, %s, %s, %s)",
                [token, EPOCH, sealed.dek_id.hex(), sealed.nonce, sealed.ciphertext],
            )
    return tokens


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.desk", description="Time to reveal 50 originals.")
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args(arguments).runs
    with tempfile.TemporaryDirectory() as folder, PostgresServer(durable=True) as postgres:
        keyring = Path(folder) / "keys"
        create(keyring, "bench")
        config = Config.model_validate({"target": {"dsn": postgres.dsn}, "keys": {"path": str(keyring)}})
        app.migrate(config)
        tokens = fill(config, postgres.dsn)
        desk.set_policy(config, "one_person", "true")
        desk.set_policy(config, "daily_items", str(TOKENS * runs))
        took = []
        for _ in range(runs):
            number = desk.request(config, tokens, reason="FRAUD", ticket="INC-1").request_id
            started = time.perf_counter()
            shown = desk.reveal(config, number, lambda _: None)
            took.append((time.perf_counter() - started) * 1000)
            if any(original.problem for original in shown):
                print("an original did not come back")
                return 1
    print(f"{TOKENS} originals back in {median(took):.1f} ms ({min(took):.1f}-{max(took):.1f}), {runs} runs")
    ok = median(took) <= LIMIT_MS
    print(f"limit of {LIMIT_MS:g} ms: {'met' if ok else 'missed'}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
