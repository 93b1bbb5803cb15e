"""The Pareto front of two figures, of which more is better."""

from collections.abc import Mapping


def front(figures: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """Returns the names of the points that no other point dominates, by the first figure.

    A point dominates another one if it has at least as much of both figures and more of one. Points
    with equal figures do not dominate each other.

    Args:
        figures: both figures of each point, by its name.
    """
    found, best = list[str](), -float("inf")
    # From the most of the first figure downwards, a point must have more of the second than before.
    for name, (first, second) in sorted(figures.items(), key=lambda one: one[1], reverse=True):
        if second > best or (found and figures[found[-1]] == (first, second)):
            found.append(name)
        best = max(best, second)
    return tuple(reversed(found))
