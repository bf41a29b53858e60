#!/usr/bin/env bash
# An EKS cluster with what Karpenter needs: its roles, policies and queue (its own CloudFormation
# template, at the pinned version), then the cluster itself. Some 20 minutes.
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
set -a
# shellcheck source=cluster.env
source "$here/cluster.env"
# shellcheck source=../helm/versions.env
source "$here/../helm/versions.env"
set +a
account="$(aws sts get-caller-identity --query Account --output text)"
export AWS_ACCOUNT_ID="$account"

template="$(mktemp)"
trap 'rm -f "$template"' EXIT
# Under `preview`, as in Karpenter's own guide: what belongs to this very tag.
curl -fsSL -o "$template" \
  "https://raw.githubusercontent.com/aws/karpenter-provider-aws/v$KARPENTER/website/content/en/preview/getting-started/getting-started-with-karpenter/cloudformation.yaml"
aws cloudformation deploy --region "$AWS_REGION" --stack-name "Karpenter-$CLUSTER_NAME" \
  --template-file "$template" --capabilities CAPABILITY_NAMED_IAM \
  --parameter-overrides "ClusterName=$CLUSTER_NAME"
# shellcheck disable=SC2016  # names for envsubst
envsubst '$CLUSTER_NAME $AWS_REGION $AWS_ACCOUNT_ID $KUBERNETES $VPC_CIDR' <"$here/eksctl.yaml.in" |
  eksctl create cluster -f -
# The first spot node of an account needs this role.
aws iam create-service-linked-role --aws-service-name spot.amazonaws.com >/dev/null 2>&1 || true
