"""salient.json of a checkpoint: present, and about these tensors."""

from salient.core.errors import CheckpointError, ModelError
from salient.core.evidence import EVIDENCE_FILE, RunHeader, read_evidence
from salient.core.scheme import parse_scheme
from salient.diagnose.finding import Finding
from salient.diagnose.rule import Place

from .contents import FINDINGS, CheckpointContents


def check_evidence(contents: CheckpointContents, group: int | None) -> list[Finding]:
    """Whether salient.json is there and agrees. `group` is the tensors'."""
    try:
        evidence = read_evidence(contents.folder)
    except CheckpointError as error:
        return FINDINGS["evidence-unreadable"].at([(EVIDENCE_FILE, str(error))])
    if evidence is None:
        place = (contents.folder.name, f"no {EVIDENCE_FILE}")
        return FINDINGS["evidence-missing"].at([place] if contents.packed else [])
    wrong = FINDINGS["evidence-contradicts"].at(_contradictions(evidence.run, contents, group))
    loss = f"KL to the 16-bit model {evidence.heldout.awq.kl:.4f} nats a token"
    place = (EVIDENCE_FILE, f"{evidence.run.scheme}: {loss}")
    return wrong or FINDINGS["evidence-there"].at([place])


def _contradictions(run: RunHeader, contents: CheckpointContents, group: int | None) -> list[Place]:
    wrong: list[Place] = []
    if run.format != contents.method:
        other = f"{run.format}; the tensors are {contents.method!r}"
        wrong.append((f"{EVIDENCE_FILE}: run.format", other))
    try:
        scheme = parse_scheme(run.scheme)
    except ModelError:
        return wrong
    place = f"{EVIDENCE_FILE}: run.scheme"
    if group and scheme.group_size != group:
        wrong.append((place, f"{scheme}; the tensors have groups of {group}"))
    if scheme.symmetric and contents.asymmetric:
        wrong.append((place, f"{scheme}; the tensors have zero points"))
    return wrong
