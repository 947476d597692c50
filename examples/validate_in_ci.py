"""Gate a checkpoint in CI: validate it, write the report, and exit with the verdict.

    python examples/validate_in_ci.py CHECKPOINT REFERENCE [POLICY]

Exit code 0: ship; 1: a rule fails; 2: something could not be measured. In GitHub Actions the
report becomes the summary of the job. The policy next to this file is policy.toml.
"""

import os
import sys
from pathlib import Path

import salient
from salient.core.errors import SalientError

POLICY = Path(__file__).with_name("policy.toml")


def main(checkpoint: str, reference: str, policy: str | Path = POLICY, samples: int = 16) -> int:
    """Measure likelihood only: add tasks, context_lengths or load_test as the policy needs."""
    result = salient.validate(
        checkpoint,
        reference=reference,
        policy=policy,
        samples=samples,
        tasks=None,
        context_lengths=None,
        load_test=None,
        report="salient-report",
    )
    for rule in result.verdict.rules:
        print(f"{rule.title}: {rule.value} ({rule.direction} {rule.bound}), passed: {rule.passed}")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        text = Path("salient-report", "report.md").read_text("utf-8")
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(text)
    return result.exit_code


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:4]))
    except SalientError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
