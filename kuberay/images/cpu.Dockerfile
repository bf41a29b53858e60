# Ray head, front door and CPU worker. Build with build.sh: the context is the repository's root.
ARG BASE=public.ecr.aws/docker/library/python:3.11.14-slim-bookworm
FROM ${BASE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY kuberay/images/user.sh /tmp/
RUN bash /tmp/user.sh && rm /tmp/user.sh
WORKDIR /app
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 FORWARDED_ALLOW_IPS=none
# Packages change rarely, code often: two layers, so that an update pulls the small one.
COPY constraints.txt pyproject.toml README.md LICENSE /app/
COPY kuberay/images/packages.py /tmp/
# torch's CPU build has an index of its own; everything else is PyPI's.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python /tmp/packages.py list /app/pyproject.toml > /tmp/wanted.txt \
    && pip install --no-cache-dir --index-url "${TORCH_INDEX}" --no-deps -c /app/constraints.txt torch \
    && pip install --no-cache-dir -c /app/constraints.txt -r /tmp/wanted.txt \
    && python /tmp/packages.py check /app/constraints.txt \
    && rm /tmp/wanted.txt /tmp/packages.py
COPY models /app/models
COPY compile /app/compile
COPY deployments /app/deployments
COPY serve_app /app/serve_app
USER 1000:1000
