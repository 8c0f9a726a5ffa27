"""The pictures of a report as Vega-Lite specifications: the page draws them, and so do figures for papers."""

from seqdpo.report.charts.cell import cell_charts
from seqdpo.report.charts.chart import Chart
from seqdpo.report.charts.mechanism import mechanism_charts
from seqdpo.report.charts.overview import overview_charts

__all__ = ["Chart", "cell_charts", "mechanism_charts", "overview_charts"]
