"""Settings and configs that people reported: doctor states the true cause, and nothing untrue.

field/settings.toml has the cases, field/settings/ and field/configs/ the files.
"""

from pathlib import Path

import pytest
import tomli

from salient.diagnose.doctor import diagnose
from salient.diagnose.finding import BAD, Finding
from salient.diagnose.options import DoctorOptions

FIELD = Path(__file__).with_name("field")
CASES = tomli.loads((FIELD / "settings.toml").read_text(encoding="utf-8"))


def findings(name: str) -> list[Finding]:
    case = CASES[name]
    files = {}
    if "config" in case:
        files["config"] = str(FIELD / "settings" / case["config"])
    if "target" in case:
        files["target"] = str(FIELD / "configs" / case["target"] / "config.json")
    others = {key: case[key] for key in ("gpu", "engine_version") if key in case}
    return diagnose(DoctorOptions(**files, **others)).findings


def text_of(finding: Finding) -> str:
    return " ".join((finding.title, finding.why, *finding.do))


@pytest.mark.parametrize("name", sorted(CASES))
def test_reported_settings_give_their_true_cause(name):
    case, results = CASES[name], findings(name)
    bad = [finding for finding in results if finding.level in BAD]
    if "first" in case:
        assert (bad[0].id if bad else "") == case["first"]
    everything = " ".join(map(text_of, results))
    assert [word for word in case.get("words", []) if word not in everything] == []
    assert [word for word in case.get("never", []) if word in " ".join(map(text_of, bad))] == []
