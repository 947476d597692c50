"""What the policy asks of a figure, as a line that charts draw."""

from salient.validate.report.charts.axis import Level

from .figures import Form
from .reading import Data, bound, ruled


def asked(data: Data, stage: str, what: str, form: Form, factor: float = 1.0) -> list[Level]:
    """The bound of a rule, `factor` times, in a list; an empty one without a rule."""
    limit = bound(data, stage, what)
    if limit is None:
        return []
    return [Level(factor * limit, f"{ruled(data, stage, what).get('direction')} {form(limit)}")]
