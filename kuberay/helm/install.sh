#!/usr/bin/env bash
# Installs the controllers that the overlays count on, each at its pinned version. Running it again
# changes nothing. `kuberay/helm/install.sh keda` installs one alone.
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
set -a
# shellcheck source=versions.env
source "$here/versions.env"
# shellcheck source=../cluster/cluster.env
source "$here/../cluster/cluster.env"
set +a

# name namespace chart version [helm arguments]
chart() {
  local name="$1" namespace="$2" source="$3" version="$4"
  shift 4
  helm upgrade --install "$name" "$source" --namespace "$namespace" --create-namespace \
    --version "$version" --values "$here/$name.yaml" --wait --timeout 10m "$@"
}
repo() { helm repo add "$1" "$2" --force-update >/dev/null; }

karpenter() {
  chart karpenter kube-system oci://public.ecr.aws/karpenter/karpenter "$KARPENTER" \
    --set "settings.clusterName=$CLUSTER_NAME" --set "settings.interruptionQueue=$CLUSTER_NAME"
}
aws-load-balancer-controller() {
  repo eks https://aws.github.io/eks-charts
  chart aws-load-balancer-controller kube-system eks/aws-load-balancer-controller \
    "$AWS_LOAD_BALANCER_CONTROLLER" --set "clusterName=$CLUSTER_NAME" --set "region=$AWS_REGION" \
    --set "vpcId=$(aws eks describe-cluster --name "$CLUSTER_NAME" --region "$AWS_REGION" \
      --query cluster.resourcesVpcConfig.vpcId --output text)"
}
kuberay-operator() {
  repo kuberay https://ray-project.github.io/kuberay-helm
  chart kuberay-operator kuberay-system kuberay/kuberay-operator "$KUBERAY_OPERATOR"
}
nvidia-device-plugin() {
  repo nvdp https://nvidia.github.io/k8s-device-plugin
  chart nvidia-device-plugin kube-system nvdp/nvidia-device-plugin "$NVIDIA_DEVICE_PLUGIN"
}
neuron-helm-chart() {
  chart neuron-helm-chart kube-system oci://public.ecr.aws/neuron/neuron-helm-chart \
    "$NEURON_HELM_CHART"
}
kube-prometheus-stack() {
  repo prometheus-community https://prometheus-community.github.io/helm-charts
  chart kube-prometheus-stack monitoring prometheus-community/kube-prometheus-stack \
    "$KUBE_PROMETHEUS_STACK"
}
keda() {
  repo kedacore https://kedacore.github.io/charts
  chart keda keda kedacore/keda "$KEDA"
}
cloudwatch() {
  # create or update: the command differs, what it says does not.
  local verb=create-addon
  aws eks describe-addon --cluster-name "$CLUSTER_NAME" --region "$AWS_REGION" \
    --addon-name amazon-cloudwatch-observability >/dev/null 2>&1 && verb=update-addon
  aws eks "$verb" --cluster-name "$CLUSTER_NAME" --region "$AWS_REGION" \
    --addon-name amazon-cloudwatch-observability --addon-version "$CLOUDWATCH_OBSERVABILITY" \
    --resolve-conflicts OVERWRITE \
    --configuration-values "file://$here/amazon-cloudwatch-observability.json"
}

# Prometheus before what it is to watch: its CRDs (ServiceMonitor, PodMonitor) come with it.
all=(kube-prometheus-stack karpenter aws-load-balancer-controller kuberay-operator
  nvidia-device-plugin neuron-helm-chart keda cloudwatch)
(($#)) || set -- "${all[@]}"
for one in "$@"; do
  [[ " ${all[*]} " == *" $one "* ]] || { echo "no such part: $one; there are: ${all[*]}" >&2; exit 2; }
  echo "== $one"
  "$one"
done
