# Worker on AWS Inferentia2 and Trainium. The Deep Learning Container has Python 3.11 and the SDK that
# optimum-neuron 0.4.5 is made for (2.26.1): a frozen stack, see docs/eks.md.
ARG BASE=public.ecr.aws/neuron/pytorch-inference-neuronx:2.8.0-neuronx-py311-sdk2.26.1-ubuntu22.04
FROM ${BASE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
USER 0
COPY kuberay/images/user.sh /tmp/
RUN bash /tmp/user.sh && rm /tmp/user.sh
WORKDIR /app
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 FORWARDED_ALLOW_IPS=none
COPY constraints-neuron.txt pyproject.toml README.md LICENSE /app/
COPY kuberay/images/packages.py /tmp/
# PyPI has empty packages of the SDK's names. The exact pins keep them out, AWS' index has the real
# ones, and the check fails the build should one have come in all the same.
ARG NEURON_INDEX=https://pip.repos.neuron.amazonaws.com
RUN python /tmp/packages.py list /app/pyproject.toml neuron > /tmp/wanted.txt \
    && printf '%s\n' torch-neuronx neuronx-cc libneuronxla neuronx-distributed >> /tmp/wanted.txt \
    && pip install --no-cache-dir --extra-index-url "${NEURON_INDEX}" \
        -c /app/constraints-neuron.txt -r /tmp/wanted.txt \
    && python /tmp/packages.py check /app/constraints-neuron.txt \
    && rm /tmp/wanted.txt /tmp/packages.py
COPY models /app/models
COPY compile /app/compile
COPY deployments /app/deployments
COPY serve_app /app/serve_app
USER 1000:1000
# Not the base's TorchServe: the operator says what runs.
ENTRYPOINT []
