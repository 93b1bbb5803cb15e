#!/usr/bin/env bash
# Submits an evaluation to a running Ray cluster, follows it, and exits with its exit code:
#   launch/submit.sh CONFIG.yaml [OUTPUT] [-- options of evaluate …]
# OUTPUT is a folder that the head node writes and this machine sees, or a URI, whose files are
# fetched into runs/ID; the default is runs/ID in this folder. Paths in CONFIG are paths on the
# cluster. The cluster is that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS, or http://127.0.0.1:8265.
# The exit code is that of the job: 0, 2 configuration, 3 set-up, 4 execution or stopped; or 1.
set -euo pipefail

# Replaces the credentials of URIs.
hide() {
  sed -E 's,://[^[:space:]]*@,://***@,g; s,(://[^[:space:]?#]*)[?#][^[:space:]]*,\1?***,g'
}

fail() {
  hide <<<"error: $2" >&2
  exit "$1"
}

config=${1-}
[[ -n $config && $config != -* ]] || fail 2 "usage: launch/submit.sh CONFIG.yaml [OUTPUT] [-- options …]"
[[ -f $config && -r $config ]] || fail 2 "cannot read $config: it must be a regular file"
shift
python=${PYTHON:-python3}
id=pose-$(date -u +%Y%m%dT%H%M%SZ)-$$
output=$PWD/runs/$id
if [[ $# -gt 0 && $1 != -- ]]; then
  output=$1
  [[ $output == *://* ]] || output=$(realpath -m "$output")
  shift
fi
[[ ${1-} != -- ]] || shift
export RAY_API_SERVER_ADDRESS=${RAY_API_SERVER_ADDRESS:-${RAY_ADDRESS:-http://127.0.0.1:8265}}
# Ray keeps the token of a user in a file; its commands for jobs send the token only in this mode.
if [[ -z ${RAY_AUTH_MODE-} && -r ${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token} ]]; then
  export RAY_AUTH_MODE=token
fi

# The working directory of the job has the configuration and the command, and no data. A cluster lists the
# command lines and environments of its jobs, and a URI can hold credentials.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$config" "$work/config.yaml"
{
  printf 'exec python -m distributed_pose evaluate --config config.yaml'
  printf ' %q' --output "$output" "$@"
  echo
} >"$work/evaluate.sh"

ray job submit --no-wait --submission-id "$id" --working-dir "$work" -- bash evaluate.sh ||
  fail 3 "no job was submitted; is there a cluster at $RAY_API_SERVER_ADDRESS?"
trap 'ray job stop --no-wait "$id"; fail 4 "stopped; the same command with OUTPUT $output resumes the run"' INT TERM

# The stream of logs may end before the job.
ray job logs --follow "$id" || true
code=0
"$python" "$(dirname "$0")/job_status.py" "$id" || code=$?
[[ $code == 0 ]] || fail "$code" "job $id failed"

if [[ $output == *://* ]]; then
  mkdir -p "runs/$id"
  OUTPUT=$output TARGET=runs/$id "$python" 2>"$work/error" -c '
import os
from pyarrow.fs import copy_files
copy_files(os.environ["OUTPUT"], os.environ["TARGET"])' ||
    fail 3 "the job has succeeded, but its results cannot be fetched from $output: $(tail -n 1 "$work/error")"
  output=runs/$id
fi
[[ -r $output/report.json ]] || fail 3 "the job has succeeded, but $output/report.json is not on this machine"
echo "report: $output/report.json"
