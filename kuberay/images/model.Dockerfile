# An image with the model in it, for clusters that may not reach the hub. Read-only, and read offline.
ARG BASE
# hadolint ignore=DL3006
FROM ${BASE}
ARG MODEL
ARG REVISION
USER 0
RUN --mount=type=secret,id=hub-token \
    HF_TOKEN_PATH=/run/secrets/hub-token HF_HOME=/opt/huggingface python -c \
    "import sys; from huggingface_hub import snapshot_download as get; get(sys.argv[1], revision=sys.argv[2], allow_patterns=['*.json', '*.txt', '*.safetensors', '*.model'])" \
    "${MODEL}" "${REVISION}"
ENV HF_HUB_CACHE=/opt/huggingface/hub HF_HUB_OFFLINE=1
USER 1000:1000
