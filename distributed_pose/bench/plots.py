"""Draws plots of scaling measurements, without a display."""

from collections.abc import Mapping, Sequence
from io import BytesIO

from matplotlib.figure import Figure

# Colour-blind readers can distinguish these colours, which are after Okabe and Ito.
_MEASURED, _IDEAL, _SPREAD = "#0072b2", "#999999", "#56b4e9"

_SIZE_INCHES = (7.0, 4.6)
_DPI = 150


def scaling_plots(
    counts: Sequence[int],
    rates: Sequence[Sequence[float]],
    medians: Sequence[float],
    title: str,
) -> Mapping[str, bytes]:
    """Returns the content of files with a plot of images/s by number of devices, by suffix.

    The suffixes are `png` and `svg`.

    Args:
        counts: numbers of devices, ascending.
        rates: images per second of each run, for each count.
        medians: median of the rates, for each count.
        title: title of the plot.
    """
    # pyplot is not used, because it keeps figures in memory and looks for a display.
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    ideal = [medians[0] * count / counts[0] for count in counts]
    axes.plot(counts, ideal, "--", color=_IDEAL, label="ideal")
    for count, runs in zip(counts, rates, strict=True):
        axes.plot([count] * len(runs), runs, "o", color=_SPREAD, markersize=4, alpha=0.7)
    axes.plot(counts, medians, "o-", color=_MEASURED, label="median of the runs")
    for count, rate, best in zip(counts, medians, ideal, strict=True):
        text = f"{rate:.0f}, {rate / best:.0%}"
        axes.annotate(text, (count, rate), (6, -12), textcoords="offset points", fontsize=8)
    axes.set(xlabel="devices", ylabel="images/s, wall clock", title=title)
    axes.set_xticks(counts)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return {suffix: rendered(figure, suffix) for suffix in ("png", "svg")}


def rendered(figure: Figure, suffix: str) -> bytes:
    """Returns a figure as the content of a file with a suffix, such as `png`."""
    content = BytesIO()
    figure.savefig(content, format=suffix, dpi=_DPI)
    return content.getvalue()
