"""Which kinds of pairs lost most."""

from seqdpo.analysis.schema import Cell
from seqdpo.report.charts.chart import BLUE, CellChart, Chart, Spec, axis, plain, shown, single, zero
from seqdpo.tables import SLICE_PREFIX

MOST_SLICES = 12


def _slices(cell: Cell) -> Chart | None:
    if not cell.slices:
        return None
    known = [row for row in cell.slices if row.margin_change.value is not None]  # the most lost first
    data = [
        {"slice": f"{row.column.removeprefix(SLICE_PREFIX)}: {row.value} (n = {row.n:,})"} | plain(row.margin_change)
        for row in known[:MOST_SLICES]
    ]
    y = axis("slice", None, "nominal", sort=None, axis={"labelLimit": 240})
    layers: list[Spec] = [
        zero("x"),
        {
            "mark": {"type": "rule", "strokeWidth": 2, "color": BLUE},
            "encoding": {"y": y, "x": axis("low", "change of the margin, nats"), "x2": {"field": "high"}},
            "transform": [{"filter": "isValid(datum.low)"}],
        },
        {
            "mark": {"type": "point", "filled": True, "size": 60, "color": BLUE},
            "encoding": {
                "y": y,
                "x": axis("value", "change of the margin, nats"),
                "tooltip": [{"field": name} for name in ("slice", "value", "low", "high", "n")],
            },
        },
    ]
    more = f" The {MOST_SLICES} that lost most of {len(cell.slices)}." if len(cell.slices) > MOST_SLICES else ""
    return Chart(
        key="slices",
        title="Which kinds of pairs lost most",
        caption=f"Mean change with its interval, clustered by prompt, not adjusted for many slices.{more}",
        alt="; ".join(f"{row['slice']}: {shown(row['value'])} (n = {row['n']:,})" for row in data),
        spec=single(layers, height=24 * len(data) + 20, data={"name": "slices"}),
        data={"slices": data},
    )


ENTRY = CellChart(5, _slices)
