"""salient.json of a checkpoint: present, and about these tensors."""

from typing import Any

from salient.core.errors import ModelError
from salient.core.model_files import as_object, read_json
from salient.core.scheme import Scheme, parse_scheme
from salient.diagnose.finding import Finding
from salient.diagnose.rule import Place

from .contents import FINDINGS, CheckpointContents, as_json

EVIDENCE = "salient.json"


def check_evidence(contents: CheckpointContents, group: int | None) -> list[Finding]:
    """Whether salient.json is there and agrees. `group` is the tensors'."""
    path = contents.folder / EVIDENCE
    if not path.exists():
        place = (contents.folder.name, f"no {EVIDENCE}")
        return FINDINGS["evidence-missing"].at([place] if contents.packed else [])
    try:
        evidence = read_json(path)
    except ModelError as error:
        return FINDINGS["evidence-unreadable"].at([(EVIDENCE, str(error))])
    run = as_object(evidence.get("run"))
    if not isinstance(evidence.get("run"), dict):
        return FINDINGS["evidence-unreadable"].at([(EVIDENCE, "it has no 'run'")])
    wrong = FINDINGS["evidence-contradicts"].at(_contradictions(run, contents, group))
    return wrong or FINDINGS["evidence-there"].at(
        [(EVIDENCE, f"{as_json(run.get('scheme'))}: {_loss(evidence)}")]
    )


def _contradictions(
    run: dict[str, Any], contents: CheckpointContents, group: int | None
) -> list[Place]:
    wrong: list[Place] = []
    scheme = _scheme(run.get("scheme"))
    method = run.get("format")
    if isinstance(method, str) and method != contents.method:
        wrong.append((f"{EVIDENCE}: run.format", f"{method}; the tensors are {contents.method!r}"))
    if scheme is None:
        return wrong
    if group and scheme.group_size != group:
        wrong.append((f"{EVIDENCE}: run.scheme", f"{scheme}; the tensors have groups of {group}"))
    if scheme.symmetric and contents.asymmetric:
        wrong.append((f"{EVIDENCE}: run.scheme", f"{scheme}; the tensors have zero points"))
    return wrong


def _scheme(name: Any) -> Scheme | None:
    try:
        return parse_scheme(name) if isinstance(name, str) else None
    except ModelError:
        return None


def _loss(evidence: dict[str, Any]) -> str:
    loss = as_object(as_object(evidence.get("heldout")).get("awq")).get("kl")
    return f"KL to the 16-bit model {loss:.4f} nats a token" if type(loss) is float else "read"
