"""`coatcheck demo --keep`: the stack goes on, fed and watched, until somebody ends it."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from coatcheck import app, terminal
from coatcheck.config import Config
from coatcheck.demo.prometheus import PrometheusServer, find_prometheus
from coatcheck.demo.samples import sample_logins
from coatcheck.demo.servers import PostgresServer, SqsServer
from coatcheck.errors import CoatcheckError
from coatcheck.loop import run_async
from coatcheck.worker import run_worker

_AT_ONCE, _PAUSE_S = 10, 2.0
_NEW = 100  # logins that are made up at a time


def keep(config: Config, sqs: SqsServer, postgres: PostgresServer, variables: Mapping[str, str]) -> None:
    """Run a worker on a trickle of sample logins until SIGINT or SIGTERM, and say where to look.

    `config` has a place for metrics; `variables` are what another terminal needs to run coatcheck on this stack.
    Raises CoatcheckError.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the worker has handlers of its own
    with ExitStack() as stack:
        program = find_prometheus()
        prometheus = stack.enter_context(PrometheusServer(program, config.metrics.listen)) if program else None
        terminal.out(f"\na worker goes on, with {_AT_ONCE} new logins every {_PAUSE_S:g} s; look around:\n")
        for place in _places(config, sqs, postgres, prometheus):
            terminal.out(f"  {place}")
        terminal.out("\nand run coatcheck in another terminal:\n")
        for name, value in variables.items():
            terminal.out(f"  export {name}='{value}'")
        terminal.out("  coatcheck status\n")
        terminal.out("Ctrl-C ends all of it\n")
        stack.enter_context(_trickle(config))
        _work(config)


def _places(
    config: Config, sqs: SqsServer, postgres: PostgresServer, prometheus: PrometheusServer | None
) -> Iterator[str]:
    queue = f"{sqs.url}/000000000000/{config.source.queue}"
    yield postgres.psql_command()
    yield f"AWS_ENDPOINT_URL={sqs.url} awslocal sqs get-queue-attributes --queue-url {queue} --attribute-names All"
    yield f"curl http://{config.metrics.listen}/metrics http://{config.metrics.listen}/readyz"
    if prometheus:
        yield f"{prometheus.url}/ is a Prometheus that watches it, with the project's alerts"
    else:
        yield "apt-get install prometheus    # then `coatcheck demo --keep` starts one, too, with the project's alerts"


def _work(config: Config) -> None:
    with terminal.progress("loading") as bar:
        counts = run_worker(config, drain=False, tick=lambda now, _: bar(now.acked, f"{now.loaded:,} loaded"))
    terminal.out(terminal.summary(counts))


@contextmanager
def _trickle(config: Config) -> Iterator[None]:
    """Send new logins now and then while the block runs."""
    ended = threading.Event()
    thread = threading.Thread(target=_send, args=(config, ended), name="trickle", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_PAUSE_S)


def _send(config: Config, ended: threading.Event) -> None:
    bodies = itertools.chain.from_iterable(sample_logins(_NEW, seed).bodies for seed in itertools.count())

    async def some() -> None:
        async for _ in app.send(config, itertools.islice(bodies, _AT_ONCE), as_new=True, create_queue=False):
            pass

    while not ended.wait(_PAUSE_S):
        with suppress(CoatcheckError):  # what is wrong with the queue the worker tells
            run_async(some())
