"""The sections of a report, each made from its part of the data.

`sections(data)` gives those that were measured or could not be, in the order of the page.
"""

from collections.abc import Callable

from salient.validate.report.parts import Section
from salient.validate.report.reading import Data, error
from salient.validate.report.text_format import line

from .attribution import attribution
from .context import context
from .likelihood import likelihood
from .load import load
from .memory import memory
from .tasks import tasks

MAKERS: dict[str, tuple[str, Callable[[Data, Data], Section]]] = {
    "likelihood": ("Likelihood", likelihood),
    "tasks": ("Tasks", tasks),
    "context": ("Long context", context),
    "load": ("Load", load),
    "attribution": ("Where the loss comes from", attribution),
    "memory": ("Memory", memory),
}


def sections(data: Data) -> list[Section]:
    """Every section that `data` has; one that could not be measured says why."""
    made = []
    for name, (title, make) in MAKERS.items():
        if data.get(name) is None:
            continue
        why = error(data, name)
        made.append(Section(name, title, error=line(why, 600)) if why else make(data[name], data))
    return made
