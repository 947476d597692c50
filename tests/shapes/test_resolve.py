"""Laws of naming a model: a folder, a config, a shipped id or the Hub, and nothing else."""

import json
import shutil
import subprocess
import sys
import time

import huggingface_hub.constants
import pytest

from salient.core.errors import ModelError
from salient.core.model_files import read_json
from salient.shapes.from_config import read_shape
from salient.shapes.resolve import CONFIGS, DEMO_NAME, resolve_shape, shape_of_folder


@pytest.mark.parametrize(
    ("name", "id", "same"),
    [
        (DEMO_NAME, "HuggingFaceTB/SmolLM2-135M", True),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B", True),
        ("META-LLAMA/llama-3.1-8b", "meta-llama/Llama-3.1-8B", True),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B", True),
        ("meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Llama-3.1-70B", False),
        ("Mistral-Small-24B-Instruct-2501", "mistralai/Mistral-Small-24B-Instruct-2501", True),
        ("gemma-3-27b", "google/gemma-3-27b-it", False),
        ("PHI-4", "microsoft/phi-4", True),
    ],
)
def test_a_shipped_model_is_known_by_id_by_last_part_and_tuned(name, id, same):
    start = time.process_time()
    shape, origin = resolve_shape(name)
    assert time.process_time() - start < 0.2
    whole = read_shape(read_json(CONFIGS / f"{id.replace('/', '--')}.json"))
    assert origin == f"the config of {id}, shipped with Salient"
    assert shape.blocks == whole.blocks
    more = () if same else (f"{name} has the matrices of {id}; its context may be another",)
    assert shape.notes == (*whole.notes, *more)


def test_every_shipped_config_is_known_by_its_own_id():
    for config in CONFIGS.glob("*.json"):
        id = config.stem.replace("--", "/")
        assert resolve_shape(id)[1] == f"the config of {id}, shipped with Salient"


def test_a_folder_or_a_config_on_disk_comes_before_any_known_name(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy, tmp_path / "phi-4")
    assert resolve_shape("phi-4")[1] == "the folder phi-4"
    shape, origin = resolve_shape("phi-4/config.json")
    assert origin == "the file phi-4/config.json"
    assert shape.blocks == resolve_shape("phi-4")[0].blocks


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.gguf", r"cannot be read as GGUF \(it does not begin with GGUF\)"),
        ("pytorch_model.bin", "is a pickle, which Salient does not open: convert the model"),
        ("model.safetensors", "holds weights without a config; give the folder that it is in"),
        ("notes.txt", "is no config.json. Give a folder with config.json"),
        ("empty", "has no config.json: it is not a Hugging Face model folder"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    if name != "empty":
        (tmp_path / name).write_bytes(b"\0" * 16)
    with pytest.raises(ModelError, match=message):
        resolve_shape(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'' is no model that Salient knows"),
        ("\0", "is no model that Salient knows"),
        ("x" * 5000, f"'{'x' * 96}' is no model that Salient knows"),
        ("a/b/c", "'a/b/c' is no model that Salient knows"),
        (
            "qwen3-8",
            "nearest first: Qwen/Qwen3-8B, .*Give a folder .*, a GGUF file, or a Hub id",
        ),
        ("/nowhere", "No file or folder '/nowhere'"),
        ("./config.json", r"No file or folder './config\.json'"),
        ("~nobody/x", "No file or folder '~nobody/x'"),
        ("gone.gguf", r"No file or folder 'gone\.gguf'"),
        ("org/none", "'org/none' is no folder here, and the Hub gives no config.json .*offline"),
        ("meta-llama/Llama-3.1-9B", "nearest first: meta-llama/Llama-3.1-8B"),
        ("a b/c", "'a b/c' is no folder here"),
    ],
)
def test_an_unknown_name_is_refused_with_what_fits(name, message):
    with pytest.raises(ModelError, match=message):
        resolve_shape(name)


def test_the_hubs_cache_is_read_before_the_hub(toy, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text("0")
    shutil.copy(toy / "config.json", snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    shape, origin = resolve_shape("org/tiny")
    assert origin == "config.json of org/tiny on the Hugging Face Hub"
    assert shape.blocks == shape_of_folder(toy).blocks


class Answer:
    """The Hub's response to a request."""

    def __init__(self, config):
        self.config = config

    @property
    def content(self):
        return json.dumps(self.config).encode()


def test_only_a_config_is_fetched_in_one_attempt_of_a_few_seconds(toy, monkeypatch):
    requests = []

    class Client:
        def get(self, url, **how):
            requests.append((url, how["timeout"]))
            return Answer(read_json(toy / "config.json"))

    monkeypatch.setattr("huggingface_hub.utils.get_session", Client)
    monkeypatch.setattr("huggingface_hub.utils.hf_raise_for_status", lambda _: None)
    shape, _ = resolve_shape("org/fetched")
    assert shape.blocks == shape_of_folder(toy).blocks
    assert requests == [("https://huggingface.co/org/fetched/resolve/main/config.json", 5.0)]


@pytest.mark.parametrize("answer", [[1], {"model_type": "llama"}, "text", None])
def test_a_response_of_the_hub_is_checked_like_a_file(answer, monkeypatch):
    client = type("Client", (), {"get": lambda *_, **__: Answer(answer)})
    monkeypatch.setattr("huggingface_hub.utils.get_session", client)
    monkeypatch.setattr("huggingface_hub.utils.hf_raise_for_status", lambda _: None)
    with pytest.raises(ModelError, match=r"config\.json of org/fetched"):
        resolve_shape("org/fetched")


def test_describing_a_local_model_imports_no_torch_and_no_hub():
    code = "import sys; from salient.shapes.resolve import resolve_shape; resolve_shape('phi-4')"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}; print(json.dumps(sorted(sys.modules)))".replace(
            "import sys;", "import sys, json;")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    heavy = {"torch", "transformers", "huggingface_hub", "numpy", "pydantic", "yaml"}
    assert not heavy & set(json.loads(run.stdout))
