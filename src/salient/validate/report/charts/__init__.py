"""Charts as plain values: where each mark stands, in percent, and what it says.

The templates draw them. A chart may hold nothing to draw; its `words` and figures say so.
"""

from .columns import Columns
from .grid import Grid
from .lines import Lines
from .rows import Rows

Chart = Rows | Lines | Columns | Grid
