"""Returns the values of users as messages show them."""

from distributed_pose.locations import redacted

# Characters of a value or key, and mistakes, that a message shows.
_MAX_SHOWN = 100


def short_repr(value: object) -> str:
    try:
        return short_line(redacted(repr(value)))
    # Python writes no integers of thousands of digits, and no mappings a thousand deep.
    except (ValueError, RecursionError):
        return "a value that is too long to show"


def short_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}..."
