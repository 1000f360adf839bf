# syntax=docker/dockerfile:1

# The Python that the test suite runs on: what is shipped is what was tested.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Dependencies first: this layer changes only with the locks. The virtual environment that is shipped has no pip.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/gateway \
    && pip --python /opt/gateway/bin/python install --require-hashes --no-deps -r requirements.lock \
    && pip install --require-hashes --no-deps -r requirements-build.lock

COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
RUN python -m hatchling build -t wheel \
    && pip --python /opt/gateway/bin/python install --no-deps --no-index dist/*.whl


FROM python:${PYTHON}
LABEL org.opencontainers.image.title="quantapay-gateway" \
      org.opencontainers.image.description="A REST front door for QuantaPay" \
      org.opencontainers.image.source="https://github.com/quantapay/quantapay-gateway" \
      org.opencontainers.image.licenses="Apache-2.0"

# Inside a container the container's network is the border, so both listeners take any address. Publish only 8080.
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GATEWAY_HOST=0.0.0.0 \
    GATEWAY_OPS_HOST=0.0.0.0 \
    GATEWAY_DATA_DIR=/data

COPY --from=build /opt/gateway /opt/gateway

# Nothing is written outside /data (GATEWAY_REDIS_URL=embedded) and /tmp: run with --read-only --tmpfs /tmp.
RUN install -d -o 10001 -g 10001 /data

# gateway.yaml is looked for here.
WORKDIR /etc/quantapay-gateway
USER 10001:10001
EXPOSE 8080 9464

# http.client, because urllib would ask an HTTP_PROXY from the environment.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('GATEWAY_PORT') or 8080), timeout=2); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]

# SIGTERM starts the drain; allow GATEWAY_DRAIN_SECONDS + QUANTAPAY_TIMEOUT + 2 s before SIGKILL (docker stop --time 20).
STOPSIGNAL SIGTERM
ENTRYPOINT ["quantapay-gateway"]
CMD ["serve"]
