"""The configuration of what is exported by OpenTelemetry, and the variables of its own that count."""

from __future__ import annotations

import os

from pydantic import Field, SecretStr

from coatcheck.config_section import Section


class TelemetryConfig(Section):
    """Where metrics and traces go by OpenTelemetry (OTLP over HTTP)."""

    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="collector's base URL, as in http://collector:4318, for metrics and traces (`pip install "
        "'coatcheck[otel]'`); default: OTEL_EXPORTER_OTLP_ENDPOINT; empty: nothing is exported",
    )
    otlp_headers: SecretStr | None = Field(
        None, description="secret: headers, as in `name=value,name=value`; default: OTEL_EXPORTER_OTLP_HEADERS"
    )
    metrics_seconds: float = Field(30.0, ge=1, le=3600, description="seconds from one export of metrics to the next")
    sample_ratio: float = Field(0.01, ge=0, le=1, description="share of batches that are traced; 0: none")

    @property
    def endpoint(self) -> str:
        """The collector's base URL; empty if nothing is exported."""
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return ""
        return self.otlp_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
