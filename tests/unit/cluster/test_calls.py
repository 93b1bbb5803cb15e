"""The message about a process that was ended for lack of memory."""

import pytest

from distributed_pose.cluster.answers import memory_kill

REPORT = """\
1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.2, \
ID: afd1) was 8.40GB used / 23.54GB limit (0.356919)
OOM kill reason: Memory usage 8880148480B exceeded threshold of 8846778368B
Ray killed 1 worker(s) based on the killing policy
Selected to kill: (Actor(f32c): job ID=01000000, pid=3631, actual memory used=2.54GB)
Top 10 memory users: PID	MEM(GB)	COMMAND
"""


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (REPORT, ": its node used 8.40GB of 23.54GB, the process 2.54GB"),
        ("something else", ""),
    ],
)
def test_a_process_that_ray_ends_for_lack_of_memory_is_reported_in_one_line_with_its_figures(
    report: str, expected: str
) -> None:
    assert memory_kill(report) == f"Ray ended its process for lack of memory{expected}"
