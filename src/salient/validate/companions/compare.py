"""What is served is what is judged: the files next to both models' weights, before stage 1.

The figures are of the codes, with the reference's tokenizer and prompts. A checkpoint that is
served with another tokenizer, template, end of answers or rotary positions answers otherwise, and
fails whatever its figures; other differences are reported.
"""

from collections.abc import Iterator

from salient.core.content_digest import changed_files
from salient.core.errors import CheckpointError
from salient.core.evidence import RunEvidence, read_evidence
from salient.formats.checkpoint import fingerprint
from salient.validate.model_pair import ModelPair
from salient.validate.policy.policy import Policy
from salient.validate.policy.verdict import ALL, RuleResult

from .config_differences import config_differences
from .difference import FileDifference, listed
from .tokenizer_differences import tokenizer_differences

STAGE = "files"  # of the rules on differences
OF_ADAPTER = "adapter/"  # in the names of the source's files


def compare_companions(pair: ModelPair) -> tuple[FileDifference, ...]:
    """All differences, the judged ones first.

    Raises ModelError where the reference's own files cannot be read.
    """
    differences = [
        *tokenizer_differences(pair),
        *config_differences(pair),
        *_evidence_differences(pair),
    ]
    return tuple(sorted(differences, key=lambda difference: not difference.judged))


def _evidence_differences(pair: ModelPair) -> Iterator[FileDifference]:
    """What salient.json says of the files, where it has their digests."""
    folder = pair.checkpoint.source.folder
    try:
        evidence = read_evidence(folder)
    except CheckpointError as error:
        yield FileDifference("evidence", str(error))
        return
    if evidence is None:
        return
    if changed := changed_files(folder, evidence.files):
        names = [f"{name} {fault}" for name, fault in changed.items()]
        yield FileDifference(
            "files",
            f"The checkpoint is not as it was written: {listed(names)}. Validated are the files as "
            "they are.",
            count=len(names),
        )
    yield from _other_source(pair, evidence)


def _other_source(pair: ModelPair, evidence: RunEvidence) -> Iterator[FileDifference]:
    if not evidence.source_files:  # by an older version, with another fingerprint
        return
    reference = pair.reference.source
    digests = {n: d for n, d in evidence.source_files.items() if not n.startswith(OF_ADAPTER)}
    changed = changed_files(reference.folder, digests)
    if not changed and fingerprint(reference) == evidence.run.model:
        return
    names = [f"{name} {fault}" for name, fault in changed.items()]
    yield FileDifference(
        "evidence",
        f"The checkpoint was made of {evidence.model}, and the reference {pair.reference.name} is "
        f"not that model as it was{': ' * bool(names)}{listed(names)}. The figures are then not of "
        "quantizing alone.",
        count=max(len(names), 1),
    )


def failed_rules(differences: tuple[FileDifference, ...], policy: Policy) -> list[RuleResult]:
    """A rule that does not hold for each judged difference that `policy` does not allow."""
    return [
        RuleResult(
            STAGE,
            difference.subject,
            ALL,
            float(difference.count),
            None,
            0.0,
            "at most",
            "differences",
            passed=False,
            reason=difference.message,
        )
        for difference in differences
        if difference.judged and difference.subject not in policy.may_differ
    ]
