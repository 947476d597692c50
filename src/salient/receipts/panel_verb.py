"""The verb `panel`: make a panel file."""

from collections import Counter
from pathlib import Path

from salient.core.devices import find_device
from salient.core.errors import RequestError
from salient.core.options import strings
from salient.core.report import Report, Table
from salient.models.source_model import open_source_model
from salient.validate.likelihood.panel_making import PanelRequest, make_panel
from salient.validate.likelihood.token_panel import TokenPanel, write_panel
from salient.validate.model_pair import PairMember

from .options import PanelOptions


def write_panel_file(options: PanelOptions) -> tuple[TokenPanel, Report]:
    """Make the panel and write it. Raises SalientError; then nothing is written."""
    output = Path(options.output)
    if options.action != "make":
        raise RequestError(
            f"salient panel {options.action}: give salient panel make MODEL -o FILE."
        )
    if output.suffix != ".safetensors" or not output.absolute().parent.is_dir():
        raise RequestError(f"-o {output}: a panel is a .safetensors file in a folder that exists.")
    model = open_source_model(options.model, device=find_device(options.device))
    model.skeleton.head.check_generates(str(options.model))
    request = PanelRequest(
        strings(options.text), options.sequence_length, options.positions, options.own_text
    )
    member = PairMember(str(options.model), "reference", model)
    panel = make_panel(member, request, options.progress)
    write_panel(panel, output)
    counts = {name: int(panel.stratum_of(name).sum()) for name in panel.strata}
    documents = Counter(panel.head.strata[number] for number in panel.documents.unique().tolist())
    rows = [(name, f"{count:,}", f"{documents[name]}") for name, count in counts.items() if count]
    data: dict[str, object] = {
        "file": str(output),
        "digest": panel.digest,
        "positions": panel.positions,
        "window": panel.ids.shape[1],
        "strata": counts,
        "documents": dict(documents),
        "notes": list(panel.head.notes),
    }
    table = Table(f"Panel {panel.head.name}", ("text", "positions", "documents"), rows)
    lines = [f"Note: {note}" for note in panel.head.notes]
    return panel, Report(data, [table], [*lines, f"Panel {panel.digest[:12]}: {output}"])
