# The image of coatcheck: one environment made from requirements/runtime-otel.lock, and nothing of what made it.
# A digest may stand behind each tag (python:...@sha256:...); Dependabot keeps both up to date.

FROM python:3.13.14-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_SYSTEM_CERTS=1 UV_PYTHON=/opt/coatcheck
WORKDIR /build
COPY requirements/image.lock requirements/runtime-otel.lock requirements/
# only wheels, and only those with a hash of the lock: nothing is compiled here
RUN python -m venv tools \
 && tools/bin/pip install --no-compile \
      --require-hashes --no-deps --only-binary :all: --requirement requirements/image.lock \
 && python -m venv --without-pip /opt/coatcheck \
 && tools/bin/uv pip install --require-hashes --no-deps --only-binary :all: --requirement requirements/runtime-otel.lock
COPY pyproject.toml README.md LICENSE ./
COPY deploy/prometheus/alerts.yml deploy/prometheus/
COPY src src
# bytecode is made once, and is valid whatever the times of the files become: a read-only image never compiles
RUN tools/bin/hatchling build --target wheel --directory dist \
 && tools/bin/uv pip install --no-index --no-deps dist/*.whl \
 && tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
      --output-file /opt/coatcheck/coatcheck.cdx.json /opt/coatcheck/bin/python \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/coatcheck
COPY --chmod=644 deploy/docker/healthcheck.py /opt/coatcheck/

FROM python:3.13.14-slim-trixie
LABEL org.opencontainers.image.title="coatcheck" \
      org.opencontainers.image.description="Moves JSON messages from Amazon SQS into PostgreSQL and checks the personal data at the door" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/coatcheck /opt/coatcheck
# where coatcheck.toml, coatcheck-keys, .aws and .postgresql are looked for
WORKDIR /coatcheck
RUN install --directory --owner 10001 --group 10001 --mode 700 coatcheck-keys
ENV HOME=/coatcheck \
    PATH=/opt/coatcheck/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    COATCHECK_METRICS__LISTEN=:9464
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-I", "-S", "/opt/coatcheck/healthcheck.py"]
ENTRYPOINT ["coatcheck"]
CMD ["run"]
