# Two images from one file: `--target app` for Ray pods, `--target operator` for the operator.
# Dependencies come before the sources, so a change of the code rebuilds the last layer alone.
#
# BASE_IMAGE is a Debian-like image with Python 3.11 or later as python3, such as the official one.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS base
# KubeRay's probes call bash, wget and grep. A base that has them needs no package index here.
RUN command -v wget >/dev/null || { \
      apt-get update && apt-get install --yes --no-install-recommends ca-certificates wget && \
      rm -rf /var/lib/apt/lists/*; }
# The chart's own ids: 1000 for Ray pods, 65532 for the operator.
RUN groupadd --gid 1000 wan22 && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash wan22
WORKDIR /opt/wan22
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin \
    UV_PROJECT_ENVIRONMENT=/opt/venv UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true UV_NO_CACHE=true \
    UV_COMPILE_BYTECODE=true PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# A login shell resets PATH, and KubeRay can be told to use one.
RUN echo 'export PATH=/opt/venv/bin:$PATH' > /etc/profile.d/wan22.sh
COPY pyproject.toml uv.lock ./

FROM base AS app
RUN python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --quiet --no-cache-dir uv==0.13.9 && \
    /tmp/uv/bin/uv sync --quiet --locked --no-dev --no-install-project --extra app --extra s3 --extra gcs && \
    rm -rf /tmp/uv
COPY serve_config ./serve_config
COPY app ./app
ENV PYTHONPATH=/opt/wan22
USER 1000:1000
# KubeRay brings the command; by hand: docker run IMAGE serve run --name wan22 app.serve_app:app
CMD ["serve", "--help"]

FROM base AS operator
RUN python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --quiet --no-cache-dir uv==0.13.9 && \
    /tmp/uv/bin/uv sync --quiet --locked --no-dev --no-install-project --extra operator && \
    rm -rf /tmp/uv
COPY serve_config ./serve_config
# Its plan rule and settings alone; nothing here loads Ray or torch.
COPY app/__init__.py app/config.py app/plan.py ./app/
COPY operator ./operator
ENV PYTHONPATH=/opt/wan22/operator:/opt/wan22
USER 65532:65532
CMD ["python", "-m", "kopf", "run", "--module=wan22_operator.handlers", "--standalone", "--all-namespaces"]
