# Two images from one file: `--target app` for Ray pods, `--target operator` for the operator.
# What changes seldom comes first: torch with CUDA's libraries, the other dependencies, the sources. A layer is made anew
# only where its own part of uv.lock changed, so a change of the code rebuilds in seconds and pulls a few megabytes.
#
# BASE_IMAGE is a Debian-like image with Python 3.11 or later as python3, and its headers, such as the official one.
# A machine with its own certificates, or an index other than PyPI, says so by secrets that no image keeps
# (`make images` does): --secret id=ca,src=CERTIFICATES --secret id=pip,src=PIP.CONF --secret id=uv,src=UV.TOML
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG UV_VERSION=0.13.9

FROM ${BASE_IMAGE} AS base
# KubeRay's probes call bash, wget and grep. A base that has them needs no package index here.
RUN command -v wget >/dev/null || { \
      apt-get update && apt-get install --yes --no-install-recommends ca-certificates wget && \
      rm -rf /var/lib/apt/lists/*; }
# The chart's own ids: 1000 for Ray pods, 65532 for the operator. Programs ask for the name of their user.
RUN python3 -m venv --without-pip /opt/venv && \
    groupadd --gid 1000 wan22 && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash wan22 && \
    groupadd --gid 65532 wan22-operator && useradd --uid 65532 --gid 65532 --create-home wan22-operator && \
    # A login shell resets PATH, and KubeRay can be told to use one.
    echo 'export PATH=/opt/venv/bin:$PATH' > /etc/profile.d/wan22.sh
WORKDIR /opt/wan22
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin \
    UV_SYSTEM_CERTS=true PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

FROM base AS locked
ARG UV_VERSION
COPY pyproject.toml uv.lock ./
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --quiet --no-cache-dir uv==$UV_VERSION && \
    export="/tmp/uv/bin/uv export --quiet --offline --locked --no-dev --no-emit-project --no-header --no-annotate" && \
    $export --extra operator > operator.txt && $export --extra app --extra fa4 --extra s3 --extra gcs > app.txt && \
    # Each entry is a line with its hashes indented below it.
    awk '/^[a-z]/ {torch = /^(cuda-|nvidia-|torch=|triton=)/} torch' app.txt > torch.txt

FROM base AS app
ARG UV_VERSION
# torch.compile and Triton build what they load on the machine where they run.
RUN command -v g++ >/dev/null || { \
      apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*; }
COPY --from=locked /opt/wan22/torch.txt ./
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --quiet --no-cache-dir uv==$UV_VERSION && \
    /tmp/uv/bin/uv pip sync --quiet --python=/opt/venv --no-cache --compile-bytecode torch.txt && rm -rf /tmp/uv
COPY --from=locked /opt/wan22/app.txt ./
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --quiet --no-cache-dir uv==$UV_VERSION && \
    /tmp/uv/bin/uv pip sync --quiet --python=/opt/venv --no-cache --compile-bytecode app.txt && rm -rf /tmp/uv
ENV PYTHONPATH=/opt/wan22
USER 1000:1000
# KubeRay brings the command; by hand: docker run IMAGE serve run --name wan22 app.serve_app:app
CMD ["serve", "--help"]
# Readable for every user, whatever the umask was: safetensors files are their writer's alone.
COPY --chmod=755 serve_config ./serve_config
COPY --chmod=755 app ./app

FROM base AS operator
ARG UV_VERSION
COPY --from=locked /opt/wan22/operator.txt ./
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --quiet --no-cache-dir uv==$UV_VERSION && \
    /tmp/uv/bin/uv pip sync --quiet --python=/opt/venv --no-cache --compile-bytecode operator.txt && rm -rf /tmp/uv
ENV PYTHONPATH=/opt/wan22/operator:/opt/wan22
USER 65532:65532
CMD ["python", "-m", "kopf", "run", "--module=wan22_operator.handlers", "--standalone", "--all-namespaces"]
COPY --chmod=755 serve_config ./serve_config
# The plan rule, the settings and the type of a gang's state; nothing here loads Ray, torch or Redis.
COPY --chmod=755 app/__init__.py app/config.py app/plan.py ./app/
COPY --chmod=755 app/tasks/__init__.py app/tasks/gang_state.py ./app/tasks/
COPY --chmod=755 operator ./operator
