#!/usr/bin/env bash
# Starts an evaluation on this machine: launch/local.sh [CONFIG.yaml] [options of evaluate …]
set -euo pipefail
config=$(dirname "$0")/../configs/local.yaml
if [[ ${1-} == *.yaml ]]; then
  config=$1
  shift
fi
exec distributed-pose evaluate --config "$config" "$@"
