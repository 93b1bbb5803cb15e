#!/usr/bin/env bash
# Starts Ray on a bare host, the head first and then every other one:
#   launch/node.sh head [CHIP] [-- options of ray start …]
#   launch/node.sh ADDRESS:PORT [CHIP] [-- options of ray start …]
# CHIP is the name that `npu-smi info` shows on a host with Ascend NPUs, such as 310P3; Ray recognises
# NVIDIA cards itself. The cluster requires the token in ~/.ray/auth_token, which the head creates if
# it is missing: copy it to the other hosts, and to the machines that submit jobs. With
# RAY_AUTH_MODE=disabled the cluster requires none. Jobs from other machines need `-- --dashboard-host=0.0.0.0` at the head.
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
  if [[ -z ${RAY_AUTH_MODE-} ]]; then
    # Without a token, anyone who reaches the cluster can run code on it.
    ray get-auth-token --generate >/dev/null
    export RAY_AUTH_MODE=token
  fi
  exec ray start --head "${labels[@]}" "$@"
fi
if [[ -z ${RAY_AUTH_MODE-} ]]; then
  if ray get-auth-token >/dev/null 2>&1; then
    export RAY_AUTH_MODE=token
  else
    echo "this host has no token: if the head requires one, copy its ~/.ray/auth_token to this host" >&2
  fi
fi
exec ray start --address="$place" "${labels[@]}" "$@"
