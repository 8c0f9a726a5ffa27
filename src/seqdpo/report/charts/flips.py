"""Which pairs flipped."""

from seqdpo.analysis.schema import Cell, Flips
from seqdpo.report.charts.chart import CellChart, Chart, Spec, axis, counted, flip_channels, plain, single


def _flips(cell: Cell) -> Chart:
    flips = cell.change.flips
    bars = (
        ("right", "kept", flips.kept),
        ("right", "lost", flips.lost),
        ("wrong", "regained", flips.regained),
        ("wrong", "never", flips.never),
    )
    data = [
        {"before": before, "flip": flip, "place": place, "pairs": pairs}
        for place, (before, flip, pairs) in enumerate(bars)
    ]
    drawn: Spec = {
        "mark": {"type": "bar"},
        "encoding": {
            "y": axis("before", "before", "nominal", sort=["right", "wrong"]),
            "x": axis("pairs", "pairs"),
            "color": flip_channels("after", flips)["color"],
            "order": {"field": "place"},
            "tooltip": [{"field": "flip"}, {"field": "pairs"}],
        },
    }
    labels: Spec = {
        "mark": {"type": "text", "color": "#FFFFFF", "fontWeight": "bold"},
        "transform": [{"filter": "datum.pairs > 0"}],
        "encoding": {
            "y": axis("before", "before", "nominal", sort=["right", "wrong"]),
            "x": axis("pairs", "pairs", stack="zero", bandPosition=0.5),
            "detail": {"field": "flip"},
            "order": {"field": "place"},
            "text": {"field": "pairs"},
        },
    }
    tied = f" {flips.tied:,} pairs with a margin of exactly 0 are left out." if flips.tied else ""
    return Chart(
        key="flips",
        title=_title(flips),
        caption=(
            f"Right: {cell.measure.replace('_', ' ')} above 0. kept stays right, lost turns wrong, regained turns "
            "right, never stays wrong. "
            f"n = {cell.n:,} pairs.{tied}"
        ),
        alt=", ".join(f"{name} {counted(n)}" for name, n in plain(flips).items()),
        spec=single([drawn, labels], height=110, data={"name": "flips"}),
        data={"flips": data},
    )


def _title(flips: Flips) -> str:
    kept, lost, regained, never = flips.kept, flips.lost, flips.regained, flips.never
    if kept is None or lost is None or regained is None or never is None:
        return "Which pairs flipped: undefined"
    return (
        f"{lost:,} of {kept + lost:,} right pairs turned wrong, {regained:,} of {regained + never:,} wrong ones right"
    )


ENTRY = CellChart(2, _flips)
