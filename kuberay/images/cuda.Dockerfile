# Worker on NVIDIA GPUs (g5, g6, p4). The base is AWS' Deep Learning Container for running CUDA programs;
# its framework images have Python 3.12, and all nodes of a Ray cluster need the same minor: 3.11.
ARG BASE=public.ecr.aws/deep-learning-containers/base:runtime-cu130-amzn2023
FROM ${BASE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
USER 0
COPY kuberay/images/user.sh /tmp/
# hadolint ignore=DL3041
RUN dnf install -y --setopt=install_weak_deps=False \
        python3.11 python3.11-devel python3.11-pip gcc procps-ng shadow-utils wget \
    && dnf clean all \
    && python3.11 -m venv /opt/venv \
    && bash /tmp/user.sh && rm /tmp/user.sh
WORKDIR /app
# gcc stays: torch.compile builds kernels where no compiled artifact fits.
ENV PATH=/opt/venv/bin:${PATH} PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 FORWARDED_ALLOW_IPS=none
COPY constraints.txt pyproject.toml README.md LICENSE /app/
COPY kuberay/images/packages.py /tmp/
# PyPI's torch is the CUDA 13 build and brings its own CUDA libraries.
RUN python /tmp/packages.py list /app/pyproject.toml > /tmp/wanted.txt \
    && pip install --no-cache-dir -c /app/constraints.txt -r /tmp/wanted.txt \
    && python /tmp/packages.py check /app/constraints.txt \
    && python -c "import torch; assert torch.version.cuda, 'this torch has no CUDA'" \
    && rm /tmp/wanted.txt /tmp/packages.py
COPY models /app/models
COPY compile /app/compile
COPY deployments /app/deployments
COPY serve_app /app/serve_app
USER 1000:1000
ENTRYPOINT []
