#!/usr/bin/env bash
# Gives each service account the role that its JSON file describes, by EKS Pod Identity.
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# shellcheck source=../cluster/cluster.env
source "$here/../cluster/cluster.env"

# policy file, namespace, service account
attach() {
  local role="$CLUSTER_NAME-$1"
  aws iam get-role --role-name "$role" >/dev/null 2>&1 ||
    aws iam create-role --role-name "$role" \
      --assume-role-policy-document "file://$here/trust.json" >/dev/null
  aws iam put-role-policy --role-name "$role" --policy-name "$1" \
    --policy-document "file://$here/$1.json"
  local known
  known="$(aws eks list-pod-identity-associations --cluster-name "$CLUSTER_NAME" \
    --region "$AWS_REGION" --namespace "$2" --service-account "$3" \
    --query 'associations[0].associationId' --output text)"
  [[ $known != None ]] ||
    aws eks create-pod-identity-association --cluster-name "$CLUSTER_NAME" --region "$AWS_REGION" \
      --namespace "$2" --service-account "$3" \
      --role-arn "$(aws iam get-role --role-name "$role" --query Role.Arn --output text)" >/dev/null
  echo "$2/$3 has role $role"
}

attach worker imagine imagine-worker
attach keda keda keda-operator
attach cloudwatch-agent amazon-cloudwatch cloudwatch-agent
attach grafana monitoring kube-prometheus-stack-grafana
