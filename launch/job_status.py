"""Waits for a job of a Ray cluster, and exits with the exit code of its entrypoint.

The status is polled, since the stream of a job's logs can end before the job, and `ray job submit`
treats a stopped job as successful.
"""

import sys
import time

from ray.job_submission import JobStatus, JobSubmissionClient

_POLL_S = 1.0

# The dashboard may be restarted, or the network interrupted, for this long.
_PATIENCE_S = 60.0

_STOPPED = 4
_LOST = 1


def main(job_id: str) -> int:
    """Returns the exit code of the entrypoint; 1 if it has none, and 4 if the job was stopped."""
    client = JobSubmissionClient()
    lost_at = time.monotonic()
    while True:
        try:
            info = client.get_job_info(job_id)
        except (ConnectionError, RuntimeError) as error:
            if time.monotonic() > lost_at + _PATIENCE_S:
                sys.stderr.write(
                    f"error: the cluster does not report the status of job {job_id}: {error}\n"
                )
                return _LOST
        else:
            lost_at = time.monotonic()
            if info.status == JobStatus.SUCCEEDED:
                return 0
            if info.status == JobStatus.STOPPED:
                sys.stderr.write(f"error: job {job_id} was stopped\n")
                return _STOPPED
            if info.status == JobStatus.FAILED:
                sys.stderr.write(f"error: {info.message}\n")
                return info.driver_exit_code or _LOST
        time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
