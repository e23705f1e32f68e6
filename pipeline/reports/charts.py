"""Curves and histograms as SVG that stands inside a page and takes its colours: matplotlib draws, the page's CSS paints.

Text stays text, ids are the same for the same data, nothing is loaded from anywhere.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

INK, LINE, GRID = "#010101", "#020202", "#030303"
SERIES = (LINE, "#040404", "#050505", "#060606")
"""Stand-ins that become the page's colours."""
_CSS = {INK: "var(--ink-soft)", LINE: "var(--accent)", GRID: "var(--rule)"}
_CSS |= {stand_in: f"var(--series-{number})" for number, stand_in in enumerate(SERIES[1:], 2)}
DASHES = ("solid", (0, (6, 2)), (0, (2, 2)), (0, (7, 2, 2, 2)))
"""Of lines beside each other: colour alone tells them apart for some only."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nightcap",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}
BARS, SPANS, POINTS = 40, 60, 400


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    marked: bool = False
    """Its few points are drawn as dots on the line."""


def curves(lines: Sequence[Curve], x: str, *, log: bool = False, width: float = 5.6) -> str:
    """Up to four lines over one axis, each of another colour and dash; at most POINTS points a line. Empty without two points."""
    if not any(len(line.x) > 1 or line.marked for line in lines):
        return ""
    with rc_context(_STYLE):
        figure, axes = _figure(width, 2.3, x, "")
        for number, line in enumerate(lines):
            every = max(1, -(-len(line.x) // POINTS))
            at = [*range(0, len(line.x) - 1, every), len(line.x) - 1] if len(line.x) else []
            places = [line.x[one] for one in at], [line.y[one] for one in at]
            style = {"color": SERIES[number % len(SERIES)], "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.8}
            axes.plot(*places, **style, **({"marker": "o", "markersize": 4.5} if line.marked else {}))
        axes.margins(x=0.02)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.set_ylim(0, max(max(line.y, default=0) for line in lines) * 1.08 or 1)
        return _svg(figure)


def rate_over_time(timeline: Sequence[Sequence[float]], *, width: float = 12.0) -> str:
    """Samples a second over a run's timeline ([seconds, samples, rejected]), counted when results arrive, in SPANS equal spans."""
    points = np.array([(point[0], point[1]) for point in timeline], float).reshape(-1, 2)
    if not len(points) or points[-1, 0] <= 0:
        return ""
    edges = np.linspace(0, points[-1, 0], SPANS + 1)
    before = np.searchsorted(points[:, 0], edges, side="right")
    reached = np.where(before > 0, points[np.maximum(before - 1, 0), 1], 0.0)
    rates = np.diff(reached) / np.diff(edges)
    with rc_context(_STYLE):
        figure, axes = _figure(width, 2.3, "seconds since the start", "samples a second")
        axes.stairs(rates, edges, baseline=0, fill=True, color=LINE, alpha=0.22)
        axes.stairs(rates, edges, baseline=None, color=LINE, linewidth=1.6)
        axes.set_xlim(0, points[-1, 0])
        axes.set_ylim(0, max(float(rates.max()) * 1.08, 1e-9))
        return _svg(figure)


def histogram(values: Mapping[float, int], label: str) -> str:
    """How often each value occurs; the highest 1 % are put into the last bar, so that one outlier does not flatten the rest."""
    known = np.array(sorted(values.items()), float).reshape(-1, 2)
    if not len(known):
        return ""
    reach = np.cumsum(known[:, 1]) / known[:, 1].sum()
    low, high = known[0, 0], known[min(int(np.searchsorted(reach, 0.99)), len(known) - 1), 0]
    whole = bool((known[:, 0] == np.round(known[:, 0])).all()) and high - low < BARS
    edges = np.arange(low - 0.5, high + 1) if whole else np.linspace(low, max(high, low + 1e-6), BARS + 1)
    counts, _ = np.histogram(np.minimum(known[:, 0], high), edges, weights=known[:, 1])
    with rc_context(_STYLE):
        figure, axes = _figure(3.5, 1.9, label, "")
        axes.bar(edges[:-1], counts, np.diff(edges) * 0.86, align="edge", color=LINE)
        return _svg(figure)


def _figure(width: float, height: float, x: str, y: str):  # type: ignore[no-untyped-def]
    figure = Figure((width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.locator_params(nbins=5)
    return figure, axes


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 width="100%"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font: [^;\"]*;?", "font-size: 9px; ", text)
    for stand_in, colour in _CSS.items():
        text = text.replace(stand_in, colour)
    return text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
