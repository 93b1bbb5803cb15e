"""Draws the charts of a run's page as SVG that follows the colours of the page."""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distributed_pose.metrics.error_kinds import KEYPOINT_KINDS
from distributed_pose.metrics.precision_recall import RECALLS_R
from distributed_pose.report.analysis import Curve, KeypointFigures
from distributed_pose.report.timeline import Timeline

# Colours that stand for the variables of the page's style, which has two sets of them.
_VARIABLES = {
    "#010101": "var(--ink)",
    "#020202": "var(--line)",
    **{f"#03030{number}": f"var(--series-{number})" for number in range(6)},
}
_INK, _LINE, *_SERIES = _VARIABLES

_SIZE_INCHES = (6.4, 3.2)
_MAX_LINES = len(_SERIES)

# matplotlib declares its keys one by one.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "distributed_pose",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _LINE,
    "grid.alpha": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def precision_recall_chart(curves: Sequence[Curve]) -> str:
    """Returns precision by recall at several thresholds of OKS, as SVG."""
    with rc_context(_STYLE):
        figure, axes = _figure()
        for curve, colour in zip(curves, _SERIES, strict=False):
            label = f"OKS {curve.oks}, AP {curve.ap:.3f}"
            axes.plot(RECALLS_R, curve.precision, color=colour, label=label)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="lower left")
        return _svg(figure)


def keypoint_chart(keypoints: Sequence[KeypointFigures]) -> str:
    """Returns the share of each kind of error by keypoint, as SVG."""
    with rc_context(_STYLE):
        figure, axes = _figure(height=4.6)
        names = [one.name.replace("_", " ") for one in keypoints]
        left = [0.0] * len(keypoints)
        for kind, colour in zip(KEYPOINT_KINDS, _SERIES, strict=False):
            shares = [one.kinds[kind] / max(one.labelled, 1) for one in keypoints]
            axes.barh(names, shares, left=left, color=colour, label=kind, height=0.75)
            left = [start + share for start, share in zip(left, shares, strict=True)]
        axes.invert_yaxis()
        axes.set(xlabel="share of the labelled keypoints of matched people", xlim=(0, 1))
        axes.grid(visible=False)
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=5, handlelength=1)
        return _svg(figure)


def device_chart(line: Timeline) -> str:
    """Returns images per second by device over time, as SVG; only the sum of many devices."""
    rates = dict(line.images_per_s)
    if len(rates) > _MAX_LINES:
        rates = {f"all {len(rates)} devices": sum(rates.values(), 0 * line.edges_s[1:])}
    with rc_context(_STYLE):
        figure, axes = _figure()
        for (name, rate), colour in zip(rates.items(), _SERIES, strict=False):
            axes.stairs(rate, line.edges_s, color=colour, label=name, linewidth=1.5)
        axes.set(xlabel="seconds of work", ylabel="images/s", ylim=(0, None))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        return _svg(figure)


def stage_chart(line: Timeline) -> str:
    """Returns milliseconds per image of the longest stages over time, as SVG."""
    longest = sorted(line.stage_ms.items(), key=lambda item: -float(item[1].sum()))[:_MAX_LINES]
    shown: Mapping[str, Sequence[float]] = {name: times.tolist() for name, times in longest}
    with rc_context(_STYLE):
        figure, axes = _figure()
        for (name, times), colour in zip(shown.items(), _SERIES, strict=False):
            axes.stairs(times, line.edges_s, color=colour, label=name, linewidth=1.5)
        axes.set(xlabel="seconds of work", ylabel="ms per image", ylim=(0, None))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        return _svg(figure)


def _figure(height: float = _SIZE_INCHES[1]) -> tuple[Figure, Axes]:
    # pyplot is not used, because it keeps figures in memory and looks for a display.
    figure = Figure(figsize=(_SIZE_INCHES[0], height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    content = StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    text = content.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # The page sets the size, by the view box.
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
