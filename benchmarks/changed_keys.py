"""Every key of every released config deleted and renamed: how many are counted wrong in silence.

python benchmarks/changed_keys.py

The configs are those of tests/plan/field. Prints each silent wrong count, then how many there are
of all changes; exit code 1 if there is one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.field_configs import NAMES, changed_keys, is_silently_wrong


def main() -> int:
    changes = [change for name in NAMES for change in changed_keys(name)]
    silent = [change for change in changes if is_silently_wrong(change)]
    for change in silent:
        print(change)
    print(f"{len(silent)} of {len(changes)} changes are counted wrong in silence")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
