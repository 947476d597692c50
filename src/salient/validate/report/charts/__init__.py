"""Charts as plain values: where each mark stands, in percent, and what it says.

The templates draw them. A chart may hold nothing to draw; its `words` and figures say so.
"""

from .columns import ColumnChart
from .grid import HeatGrid
from .lines import LineChart
from .rows import RowChart

Chart = RowChart | LineChart | ColumnChart | HeatGrid
