"""The format number of `report.json`, by which versions know whether they can read a report."""

from dataclasses import dataclass

from distributed_pose.errors import SetupError
from distributed_pose.files.json_records import Positive, read_record

# The number grows when a field is removed or changes its meaning, so that an older version would
# misread it. A new field does not change it: older versions ignore the field, and newer ones give
# it a default that says that the run's version did not know it.
FORMAT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """The part of a report that gives its format; early reports have none."""

    report_format: Positive = 1


def check_format(content: bytes | str, place: object) -> None:
    """Checks that this version can read a report.

    Args:
        content: content of the report.
        place: path or URI of the report, for the message.

    Raises:
        SetupError: if a newer version has written the report in a format of its own.
        ValueError: if the content is not a JSON object, or its format is not a number.
    """
    found = read_record(_Header, content).report_format
    if found > FORMAT:
        raise SetupError(
            f"{place} has format {found} of a newer version; this version reads up to {FORMAT}",
            "read it with the version that wrote it, or a newer one",
        )
