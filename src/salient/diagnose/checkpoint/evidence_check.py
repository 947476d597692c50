"""salient.json against the tensors and the files; its figures are repeated only if both agree."""

from collections.abc import Iterator

from salient.core.carried_files import EXCLUDED, LARGEST, TOKENIZER_FILES, matches
from salient.core.errors import CheckpointError, ModelError
from salient.core.evidence import (
    EVIDENCE_FILE,
    MEASURED,
    RunEvidence,
    RunHeader,
    locate_changes,
    read_evidence,
)
from salient.core.input_files import most_bytes
from salient.core.progress import Progress
from salient.core.scheme import parse_scheme
from salient.diagnose.finding import Finding
from salient.diagnose.rule import Place

from .companion_files import GENERATION
from .contents import FINDINGS, CheckpointContents
from .quant_config import CONFIG


def check_evidence(
    contents: CheckpointContents, group: int | None, progress: Progress
) -> list[Finding]:
    """Whether salient.json is there and agrees. `group` is the tensors'."""
    try:
        evidence = read_evidence(contents.folder)
    except CheckpointError as error:
        return FINDINGS["evidence-unreadable"].at([(EVIDENCE_FILE, str(error))])
    if evidence is None:
        place = (contents.folder.name, f"no {EVIDENCE_FILE}")
        return FINDINGS["evidence-missing"].at([place] if contents.packed else [])
    if wrong := FINDINGS["evidence-contradicts"].at(_contradictions(evidence.run, contents, group)):
        return wrong
    if not evidence.files:
        return FINDINGS["evidence-unverified"].at([(EVIDENCE_FILE, evidence.run.scheme)])
    progress(0, 0, f"comparing {len(evidence.files)} files with {EVIDENCE_FILE}")
    if changed := list(_changed(contents, evidence)):
        weights = any(matches(name, MEASURED) for name, _ in changed if name != CONFIG)
        return FINDINGS["evidence-files-changed"].at(changed, level=None if weights else "warning")
    loss = f"KL to the 16-bit model {evidence.heldout.awq.kl:.4f} nats a token"
    return FINDINGS["evidence-there"].at([(EVIDENCE_FILE, f"{evidence.run.scheme}: {loss}")])


def _changed(contents: CheckpointContents, evidence: RunEvidence) -> Iterator[Place]:
    """Files that differ from their digest, and files that a reader takes and that have none."""
    sizes = {path.name: path.stat().st_size for path in contents.folder.iterdir() if path.is_file()}
    ends: dict[str, int] = {}  # of the tensors in each file
    for tensor in contents.tensors.values():
        ends[tensor.path.name] = max(ends.get(tensor.path.name, 0), tensor.end)
    digests = dict(evidence.files)
    for name in evidence.files.keys() & sizes.keys():
        most = ends.get(name) or most_bytes(name) or LARGEST
        if sizes[name] > most:  # which would take long to hash, and cannot match
            del digests[name]
            yield name, f"has {sizes[name]} bytes"
    yield from locate_changes(contents.folder, digests, evidence).files.items()
    for name in sorted(sizes.keys() - evidence.files.keys()):
        taken = matches(name, (*MEASURED, *TOKENIZER_FILES, GENERATION))
        if taken and (matches(name, MEASURED) or not matches(name, EXCLUDED)):
            yield name, f"is not in {EVIDENCE_FILE}"


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
