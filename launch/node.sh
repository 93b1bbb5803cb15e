#!/usr/bin/env bash
# Starts Ray on a bare host, the head first and then every other one:
#   launch/node.sh head [CHIP] [-- options of ray start …]
#   launch/node.sh ADDRESS:PORT [CHIP] [-- options of ray start …]
# CHIP is what `npu-smi info` shows on a host with Ascend NPUs, such as 310P3; NVIDIA's cards Ray
# knows by itself. Jobs from other machines need `-- --dashboard-host=0.0.0.0` at the head, which
# lets whoever reaches that port run what he likes: open it in trusted networks alone.
set -euo pipefail

place=${1-}
if [[ -z $place || $place == -* ]]; then
  echo "error: usage: launch/node.sh head|ADDRESS:PORT [CHIP] [-- options of ray start …]" >&2
  exit 2
fi
shift
labels=()
if [[ $# -gt 0 && $1 != -- ]]; then
  labels=(--labels "soc=$1")
  shift
fi
[[ ${1-} != -- ]] || shift
if [[ $place == head ]]; then
  exec ray start --head "${labels[@]}" "$@"
fi
exec ray start --address="$place" "${labels[@]}" "$@"
