"""The arguments that vLLM gets, and what the user's own words settle."""

import json
import sys
from dataclasses import replace

import pytest

from helpers.faults import copied
from helpers.rtn_checkpoints import rounded_toy
from helpers.toy_models import rewrite_json
from helpers.vllm_process import stand_in
from salient.core.errors import ModelError, RequestError
from salient.plan.gpus import find_gpu
from salient.serve.options import ServeOptions
from salient.serve.vllm.command import untracked, words_of
from salient.serve.vllm.device import TargetDevice
from salient.serve.vllm.launch import command_of
from salient.serve.vllm.locate import VllmInstall
from salient.serve.vllm.memory_fit import MemoryFit
from salient.serve.vllm.target import survey

GIB = 2**30
FIT = MemoryFit(context=64)
VLLM = VllmInstall(("vllm", "serve"), "", "0.32.0")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return rounded_toy(tmp_path_factory.mktemp("rounded"))


@pytest.fixture
def on_gpu(checkpoint):
    """What is known on a machine with one RTX 4090."""

    def known(*vllm_args, gpu="RTX 4090", vllm=VLLM, **changes):
        found = survey(ServeOptions(str(checkpoint), vllm_args=vllm_args, **changes), vllm)
        return replace(found, place=TargetDevice(find_gpu(gpu), 1, 24 * GIB))

    return known


def words(found, fit=FIT):
    return words_of(found, fit)[0]


def pairs(found, fit=FIT):
    """Each option with the word behind it."""
    said = words(found, fit)
    return {a: b for a, b in zip(said, [*said[1:], ""], strict=True) if a.startswith("--")}


def test_the_arguments_are_those_of_the_plan_and_no_quantization_is_forced(on_gpu, checkpoint):
    found = on_gpu(concurrency=3, tensor_parallel_size=2)
    assert words(found)[:3] == ["vllm", "serve", str(checkpoint)]
    said = pairs(found)
    assert "--quantization" not in said
    assert json.loads(said["--model-loader-extra-config"]) == {"enable_weights_track": True}
    assert said["--tensor-parallel-size"] == "2"
    assert said["--max-num-seqs"] == "3"
    assert said["--max-model-len"] == "64"
    assert said["--gpu-memory-utilization"] == "0.92"
    assert said["--dtype"] == "float16"
    assert "--enable-prefix-caching" in said
    assert (said["--host"], said["--port"]) == ("127.0.0.1", "8000")
    assert said["--served-model-name"] == "rounded"


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        (("--max-model-len", "32"), "--max-model-len"),
        (("--max_model_len=32",), "--max-model-len"),
        (("--max-model", "32"), "--max-model-len"),
        (("-tp", "4"), "--tensor-parallel-size"),
        (("--dtype=half",), "--dtype"),
        (("--no-enable-prefix-caching",), "--enable-prefix-caching"),
        (("--gpu-memory-utilization", "0.5"), "--gpu-memory-utilization"),
        (("--port", "9"), "--port"),
        (("--uds", "/tmp/a.sock"), "--host"),
        (("--model-loader-extra-config", '{"num_threads": 2}'), "--model-loader-extra-config"),
        (("--model-loader-extra-config.num_threads", "2"), "--model-loader-extra-config"),
        (("--served-model-name", "a", "b"), "--served-model-name"),
    ],
)
def test_the_users_own_words_win_and_stand_there_once(on_gpu, given, gone):
    said = words(on_gpu(*given, tensor_parallel_size=2))
    ours = said[: len(said) - len(given)]
    assert tuple(said[len(ours) :]) == given
    assert gone not in ours


def test_words_of_several_machines_and_unknown_ones_pass_through(on_gpu):
    given = ("--nnodes", "2", "--node-rank", "0", "--master-addr", "h", "-pp", "2", "--made-up")
    assert tuple(words(on_gpu(*given))[-len(given) :]) == given


def test_a_file_of_settings_wins_too(on_gpu, tmp_path):
    (tmp_path / "vllm.yaml").write_text("max-model-len: 32\ntensor-parallel-size: 2\n")
    found = on_gpu("--config", str(tmp_path / "vllm.yaml"))
    assert "--max-model-len" not in words(found)
    assert (found.tp, found.context) == (2, 32)
    with pytest.raises(RequestError, match="is not there"):
        on_gpu("--config", str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("given", [("--model", "other"), ("other",)])
def test_a_second_model_is_refused(on_gpu, given):
    with pytest.raises(RequestError, match="'other' is a second one beside"):
        on_gpu(*given)


@pytest.mark.parametrize(
    ("version", "given", "tracked"),
    [
        ("0.20.1", (), False),
        ("0.21.0", (), True),
        ("", (), True),
        ("0.32.0", ("--load-format", "runai_streamer"), False),
        ("0.32.0", ("--load-format", "safetensors"), True),
    ],
)
def test_weights_are_tracked_where_vllm_knows_how(on_gpu, version, given, tracked):
    found = on_gpu(*given, vllm=VllmInstall(("vllm", "serve"), "", version))
    assert ("--model-loader-extra-config" in words(found)) is tracked


def test_words_that_end_the_tracking_are_told(on_gpu):
    assert untracked(on_gpu()) == ""
    config = "--model-loader-extra-config"
    assert 'Add "enable_weights_track": true to it.' in untracked(on_gpu(config, "{}"))
    assert untracked(on_gpu(config, '{"enable_weights_track": false}')) == ""


def test_the_kernel_that_takes_float16_alone_gets_it(on_gpu, checkpoint, tmp_path):
    """AWQ on a T4 before Marlin took it."""
    folder = copied(checkpoint, tmp_path / "bf16")
    rewrite_json(folder / "config.json", dtype="bfloat16", torch_dtype="bfloat16")
    old = VllmInstall(("vllm", "serve"), "", "0.9.2")
    found = replace(on_gpu(gpu="T4", vllm=old), folder=folder)
    assert found.dtype == "float16"


def test_the_key_is_no_word_of_the_command(checkpoint, tmp_path, monkeypatch):
    stand_in(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    request = ServeOptions(str(checkpoint), api_key="s3cret", vllm_python=sys.executable)
    command, variables = command_of(request)
    assert "s3cret" not in " ".join(command)
    assert variables["VLLM_API_KEY"] == "s3cret"


def test_without_vllm_the_line_is_that_of_its_command(checkpoint, monkeypatch):
    monkeypatch.setattr("salient.serve.vllm.launch.find_vllm", lambda _: None)
    command, _ = command_of(ServeOptions(str(checkpoint)))
    assert command[:3] == ["vllm", "serve", str(checkpoint)]


def test_on_a_processor_the_cache_has_a_size_and_the_type_is_bfloat16(checkpoint, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    found = survey(ServeOptions(str(checkpoint)), replace(VLLM, cpu=True))
    command, variables = words_of(found, MemoryFit(64, cache_gib=2))
    assert variables == {"VLLM_CPU_KVCACHE_SPACE": "2"}
    assert "--gpu-memory-utilization" not in command
    assert command[command.index("--dtype") + 1] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensor_parallel_size": 0}, "--tensor-parallel-size 0 is out of range: give 1 to"),
        ({"port": 70000}, "--port 70000 is out of range: give 0 to 65535"),
        ({"context_length": 10**6}, "more than the model was made for: 512 tokens"),
        ({"concurrency": -1}, "--concurrency -1 is out of range"),
    ],
)
def test_numbers_that_cannot_be_are_refused(checkpoint, changes, words):
    with pytest.raises(RequestError, match=words):
        command_of(ServeOptions(str(checkpoint), **changes))


def test_a_model_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"There is no folder .*config\.json and safetensors"):
        command_of(ServeOptions(str(tmp_path / "none")))
    with pytest.raises(ModelError, match=r"has no config\.json"):
        command_of(ServeOptions(str(tmp_path)))
