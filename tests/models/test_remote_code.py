"""Code of a model folder: it never runs and no library asks for it, unless the user allows it."""

import builtins
import contextlib
import os
import pty
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import forked_verbs
from helpers.toy_models import rewrite_json, toy_folder
from salient import api
from salient.core.errors import ModelError
from salient.core.remote_code import is_remote_code_allowed, remote_code

CONFIG = """
from pathlib import Path
from transformers import LlamaConfig
Path({marker!r}).write_text("run")
class OwnConfig(LlamaConfig):
    model_type = "own_llama"
"""
MODEL = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
TOKENIZER = """
from pathlib import Path
from transformers import PreTrainedTokenizerFast
Path({marker!r}).write_text("run")
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def with_own_model(folder: Path, marker: Path) -> Path:
    """A toy whose config and class are code of its folder."""
    (folder / "configuration_own.py").write_text(CONFIG.format(marker=str(marker)))
    (folder / "modeling_own.py").write_text(MODEL)
    rewrite_json(
        folder / "config.json",
        model_type="own_llama",
        architectures=["OwnForCausalLM"],
        auto_map={
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    )
    return folder


def with_own_tokenizer(folder: Path, marker: Path) -> Path:
    """A toy whose tokenizer is code of its folder."""
    (folder / "tokenization_own.py").write_text(TOKENIZER.format(marker=str(marker)))
    rewrite_json(
        folder / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
    )
    return folder


def with_known_model(folder: Path, marker: Path) -> Path:
    """A toy that Transformers builds itself, although it has code, too."""
    with_own_model(folder, marker)
    rewrite_json(folder / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    return folder


@pytest.fixture
def no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    def prompt(*_: object) -> str:
        raise AssertionError("a library asks")

    monkeypatch.setattr(builtins, "input", prompt)


def verbs(folder: Path, text: Path, out: Path) -> dict[str, Callable[..., object]]:
    small = {"samples": 6, "sequence_length": 64}
    options = {"scheme": "w4-g32", "calibration": str(text), **small}
    return {
        "quantize": lambda **more: api.quantize(folder, out, **options, **more),
        "dry run": lambda **more: api.quantize(folder, out, dry_run=True, **options, **more),
        "inspect": lambda **more: api.inspect(folder, **more),
        "generate": lambda **more: api.generate(folder, ["a"], max_new_tokens=2, **more),
        "evaluate": lambda **more: api.evaluate(
            folder, reference=folder, text=[str(text)], **small, **more
        ),
        "load": lambda: api.load(folder),
        "bench": lambda: api.bench(folder),
        "doctor": lambda: api.doctor(folder),
        "plan": lambda: api.plan(folder),
    }


REFUSAL = (
    r"needs its own code \((configuration_own, modeling_own|tokenization_own)\.py\), which Salient "
    r"does not run\. .* --trust-remote-code runs it"
)


@pytest.mark.parametrize("own", [with_own_model, with_own_tokenizer])
@pytest.mark.usefixtures("no_prompt")
def test_code_of_a_model_folder_never_runs_and_the_message_names_it(own, text, tmp_path):
    marker = tmp_path / "marker"
    folder = own(toy_folder(tmp_path / "model"), marker)
    for name, verb in verbs(folder, text, tmp_path / "out").items():
        if name in ("doctor", "plan"):
            with contextlib.suppress(ModelError):
                verb()
        elif own is with_own_model or name not in ("inspect", "evaluate"):
            with pytest.raises(ModelError, match=REFUSAL):
                verb()
        assert not marker.exists(), name


@pytest.mark.usefixtures("no_prompt")
def test_a_model_that_transformers_knows_is_built_without_its_code(text, tmp_path):
    marker = tmp_path / "marker"
    folder = with_known_model(toy_folder(tmp_path / "model"), marker)
    for name, verb in verbs(folder, text, tmp_path / "out").items():
        if name != "bench":
            verb()
        assert not marker.exists(), name


@pytest.mark.parametrize("own", [with_own_model, with_own_tokenizer])
@pytest.mark.usefixtures("no_prompt")
def test_with_the_option_the_code_runs(own, text, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "c"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "c")])
    marker = tmp_path / "marker"
    folder = own(toy_folder(tmp_path / "model"), marker)
    run = verbs(folder, text, tmp_path / "out")
    run["dry run"](trust_remote_code=True)
    assert marker.exists()
    run["generate"](trust_remote_code=True)
    if own is with_own_model:
        run["inspect"](trust_remote_code=True)
        run["evaluate"](trust_remote_code=True)
    with pytest.raises(ModelError, match=REFUSAL):
        run["generate"]()


def test_the_permission_ends_with_the_verb():
    with contextlib.suppress(ZeroDivisionError), remote_code(allowed=True):
        assert is_remote_code_allowed()
        raise ZeroDivisionError
    assert not is_remote_code_allowed()


@pytest.mark.parametrize("own", [with_own_model, with_own_tokenizer])
def test_nothing_runs_on_a_terminal_where_y_is_typed(own, text, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    folder = own(toy_folder(tmp_path / "model"), marker)
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n" * 20)
    monkeypatch.setattr(forked_verbs, "STDIN", theirs)
    argv = ["quantize", str(folder), "--dry-run", "--calibration", str(text), "--device", "cpu"]
    small = ["--scheme", "w4-g32", "--samples", "6", "--sequence-length", "64"]
    result = forked_verbs.run_verb([*argv, *small], tmp_path)
    os.close(ours)
    os.close(theirs)
    assert result.code == 2
    assert "which Salient does not run" in result.output.replace("\n", " ")
    assert "[y/N]" not in result.output
    assert not marker.exists()


def test_every_call_of_from_pretrained_says_that_no_code_is_trusted():
    import salient

    root = Path(salient.__file__).parent
    for path in root.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").split("from_pretrained(")[1:]
        for after in lines:
            call = after[: after.index(")") + 1]
            if call.startswith("{"):  # a line of Python that plan prints
                continue
            safe = "GenerationConfig", "PeftConfig", "PeftModel"
            assert "trust_remote_code=" in call or any(
                f"{name}.from_pretrained({call}" in path.read_text() for name in safe
            ), f"{path}: from_pretrained({call}"
