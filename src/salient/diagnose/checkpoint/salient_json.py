"""salient.json beside a checkpoint: that it is there, and that it speaks of these tensors."""

from typing import Any

from salient.core.errors import ModelError
from salient.core.model_files import read_json
from salient.core.scheme import Scheme, parse_scheme
from salient.diagnose.finding import Finding

from .contents import CheckpointContents, said, seen

EVIDENCE = "salient.json"


def check_evidence(contents: CheckpointContents, group: int | None) -> list[Finding]:
    """Whether salient.json is there and agrees. `group` is what the tensors have."""
    path = contents.folder / EVIDENCE
    if not path.exists():
        if not contents.packed:
            return []
        return [
            Finding(
                "evidence-missing",
                "note",
                f"There is no {EVIDENCE}: what the 4 bits cost was not measured by Salient",
                do=("salient evaluate FOLDER --reference MODEL measures it.",),
                evidence=seen([(contents.folder.name, "no salient.json")]),
            )
        ]
    try:
        found = read_json(path)
    except ModelError as error:
        return [_unreadable(str(error))]
    run = found.get("run")
    if not isinstance(run, dict):
        return [_unreadable("it has no 'run'")]
    wrong = _contradictions(run, contents, group)
    if wrong:
        return [
            Finding(
                "evidence-contradicts",
                "error",
                f"{EVIDENCE} speaks of another checkpoint than this one",
                matters="Its figures do not hold for these tensors.",
                do=("Fetch the whole folder again, or quantize again.",),
                evidence=seen(wrong),
                count=len(wrong),
                rank=40,
            )
        ]
    return [_good(found)]


def _contradictions(
    run: dict[str, Any], contents: CheckpointContents, group: int | None
) -> list[tuple[str, str]]:
    wrong = []
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


def _unreadable(why: str) -> Finding:
    return Finding(
        "evidence-unreadable",
        "warning",
        f"{EVIDENCE} cannot be read",
        matters="Engines do not need it; people who judge the checkpoint do.",
        do=("Fetch it again.",),
        evidence=seen([(EVIDENCE, why)]),
    )


def _good(found: dict[str, Any]) -> Finding:
    heldout = found.get("heldout")
    judged = heldout.get("awq") if isinstance(heldout, dict) else None
    loss = judged.get("kl") if isinstance(judged, dict) else None
    words = f"KL to the 16-bit model {loss:.4f} nats a token" if type(loss) is float else "read"
    return Finding(
        "evidence-there",
        "good",
        f"{EVIDENCE} backs the checkpoint and agrees with its tensors",
        evidence=seen([(EVIDENCE, f"{said(found['run'].get('scheme'))}: {words}")]),
    )
