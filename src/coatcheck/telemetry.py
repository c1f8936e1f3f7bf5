"""Telemetry as configured: exports by OpenTelemetry while a block runs. Switched off, nothing of it is imported."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coatcheck.config import Config
from coatcheck.errors import ConfigError
from coatcheck.keys.secrets import read_secret
from coatcheck.ops.metrics import ByPipeline
from coatcheck.pipeline.ports import Tracer, untraced
from coatcheck.sources.queue_address import read_address

_log = logging.getLogger(__name__)


@contextmanager
def exporting(config: Config, *, read: Callable[[], ByPipeline] | None, traced: bool = True) -> Iterator[Tracer]:
    """Export what `read` returns (None: nothing), and the traces that the block's tracer begins, unless not `traced`.

    Raises ConfigError: what it takes is not installed, or the headers are none.
    """
    options = config.telemetry
    traced = traced and options.sample_ratio > 0
    if not (options.endpoint and (traced or read)) or not _installed(config):
        yield untraced
        return
    from coatcheck.ops import otlp, otlp_spans  # noqa: PLC0415 - an extra, which takes its time; only who wants it pays

    who = otlp.resource()
    with otlp.Export(
        endpoint=options.otlp_endpoint, headers=_headers(config), read=read, every_s=options.metrics_seconds, who=who
    ) as export:
        if traced:
            yield otlp_spans.BatchTracer(
                queue=read_address(config.source.queue).name,
                pipeline=config.pipeline,
                ratio=options.sample_ratio,
                resource=who,
                processor=export,
            )
        else:
            yield untraced


def check(config: Config) -> None:
    """Raise ConfigError if what the configuration wants to be exported cannot be."""
    if config.telemetry.endpoint:
        _installed(config)
        _headers(config)


def _installed(config: Config) -> bool:
    """Tell whether what an export takes is installed. Raises ConfigError: it is not, and the configuration wants it.

    OpenTelemetry's own variable may be meant for other programs: by that alone nobody is kept from loading.
    """
    try:
        from coatcheck.ops import otlp as _  # noqa: F401, PLC0415 - is it there?
    except ImportError:
        if config.telemetry.otlp_endpoint:
            raise ConfigError(
                "[telemetry] otlp_endpoint needs packages that are not installed",
                hint="pip install 'coatcheck[otel]'",
            ) from None
        _log.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, but coatcheck[otel] is not installed: nothing is exported")
        return False
    return True


def _headers(config: Config) -> str:
    """Return the configured headers; empty leaves them to OpenTelemetry's own variables. May block."""
    headers, keys = config.telemetry.otlp_headers, config.keys
    if headers is None:
        return ""
    return read_secret(
        headers.get_secret_value(), option="telemetry.otlp_headers", region=keys.region, profile=keys.profile
    )
