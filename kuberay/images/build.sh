#!/usr/bin/env bash
# Builds the three images and pushes them to ONE repository, told apart by the accelerator in the tag:
#   REGISTRY/imagine:0.1.0-cpu  REGISTRY/imagine:0.1.0-cuda  REGISTRY/imagine:0.1.0-neuron
#
# kuberay/images/build.sh [--push] [--digests FILE] [--bake-model] [cpu|cuda|neuron ...]
#   --push       log in to ECR, make the repository if it is not there, push with an SBOM
#   --digests F  base images by digest: lines such as CPU_BASE=...@sha256:...
#   --bake-model the embedded model only is in the image; with this, also the one that model.env names
# Environment: REGISTRY and AWS_REGION (default: kuberay/cluster/cluster.env), VERSION (pyproject.toml)
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
cd "$root"

value() { sed -n "s/^$2=//p" "$1"; }
registry="${REGISTRY:-$(value kuberay/cluster/cluster.env REGISTRY)}"
region="${AWS_REGION:-$(value kuberay/cluster/cluster.env AWS_REGION)}"
version="${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}"
push=false bake=false digests="" kinds=()

while (($#)); do
  case "$1" in
    --push) push=true ;;
    --bake-model) bake=true ;;
    --digests) digests="${2:?--digests needs a file}"; shift ;;
    cpu | cuda | neuron) kinds+=("$1") ;;
    *) echo "unknown argument $1; see the head of $0" >&2; exit 2 ;;
  esac
  shift
done
((${#kinds[@]})) || kinds=(cpu cuda neuron)

if $push; then
  aws ecr describe-repositories --region "$region" --repository-names imagine >/dev/null 2>&1 ||
    aws ecr create-repository --region "$region" --repository-name imagine \
      --image-tag-mutability IMMUTABLE --image-scanning-configuration scanOnPush=true >/dev/null
  aws ecr get-login-password --region "$region" |
    docker login --username AWS --password-stdin "$registry"
fi

for kind in "${kinds[@]}"; do
  tag="$registry/imagine:$version-$kind"
  arguments=(--file "kuberay/images/$kind.Dockerfile" --platform linux/amd64 --tag "$tag")
  if [[ -n $digests ]]; then
    base="$(value "$digests" "${kind^^}_BASE")"
    [[ $base == *@sha256:* ]] || { echo "$digests: no ${kind^^}_BASE with a digest" >&2; exit 2; }
    arguments+=(--build-arg "BASE=$base")
  fi
  if $push && ! $bake; then
    docker buildx build "${arguments[@]}" --sbom=true --provenance=true --push .
    continue
  fi
  docker buildx build "${arguments[@]}" --load .
  if $bake; then
    # A layer of its own on top: new code does not move the model's gigabytes.
    docker buildx build --file kuberay/images/model.Dockerfile --build-arg "BASE=$tag" \
      --build-arg "MODEL=$(value kuberay/jobs/compile/base/model.env MODEL)" \
      --build-arg "REVISION=$(value kuberay/jobs/compile/base/model.env REVISION)" \
      --secret id=hub-token,env=HF_TOKEN --tag "$tag-model" --load .
    tag="$tag-model"
  fi
  if $push; then docker push "$tag"; fi
done
