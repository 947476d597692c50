"""The arguments of vLLM: ours, and the user's."""

import json
import sys
from dataclasses import replace

import pytest

from helpers.faults import copied
from helpers.rtn_checkpoints import rounded_toy
from helpers.toy_models import rewrite_json
from helpers.vllm_process import stand_in
from salient.core.errors import ModelError, RequestError
from salient.plan.device_names import find_gpu
from salient.serve.options import ServeOptions
from salient.serve.vllm.launch import command_line, command_of
from salient.serve.vllm.locate import VllmInstall
from salient.serve.vllm.memory_fit import MemoryFit
from salient.serve.vllm.preflight import untracked
from salient.serve.vllm.target import TargetDevice, launch_context

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
        context = launch_context(
            ServeOptions(str(checkpoint), vllm_args=vllm_args, **changes), vllm
        )
        return replace(context, device=TargetDevice(find_gpu(gpu), 1, 24 * GIB))

    return known


def argv(context, fit=FIT):
    return command_line(context, fit)[0]


def pairs(context, fit=FIT):
    """Each option with the word behind it."""
    options = argv(context, fit)
    return {a: b for a, b in zip(options, [*options[1:], ""], strict=True) if a.startswith("--")}


def test_the_arguments_follow_the_plan_and_force_no_quantization(on_gpu, checkpoint):
    context = on_gpu(concurrency=3, tensor_parallel_size=2)
    assert argv(context)[:3] == ["vllm", "serve", str(checkpoint)]
    options = pairs(context)
    assert "--quantization" not in options
    assert json.loads(options["--model-loader-extra-config"]) == {"enable_weights_track": True}
    assert options["--tensor-parallel-size"] == "2"
    assert options["--max-num-seqs"] == "3"
    assert options["--max-model-len"] == "64"
    assert options["--gpu-memory-utilization"] == "0.92"
    assert options["--dtype"] == "float16"
    assert "--enable-prefix-caching" in options
    assert (options["--host"], options["--port"]) == ("127.0.0.1", "8000")
    assert options["--served-model-name"] == "rounded"


@pytest.mark.parametrize(
    ("arguments", "gone"),
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
def test_the_users_arguments_replace_ours(on_gpu, arguments, gone):
    options = argv(on_gpu(*arguments, tensor_parallel_size=2))
    ours = options[: len(options) - len(arguments)]
    assert tuple(options[len(ours) :]) == arguments
    assert gone not in ours


def test_arguments_of_several_machines_and_unknown_ones_pass_through(on_gpu):
    arguments = ("--nnodes", "2", "--node-rank", "0", "--master-addr", "h", "-pp", "2", "--made-up")
    assert tuple(argv(on_gpu(*arguments))[-len(arguments) :]) == arguments


def test_a_config_file_replaces_our_arguments(on_gpu, tmp_path):
    (tmp_path / "vllm.yaml").write_text("max-model-len: 32\ntensor-parallel-size: 2\n")
    context = on_gpu("--config", str(tmp_path / "vllm.yaml"))
    assert "--max-model-len" not in argv(context)
    assert (context.tp, context.context) == (2, 32)
    with pytest.raises(RequestError, match="is not there"):
        on_gpu("--config", str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("arguments", [("--model", "other"), ("other",)])
def test_a_second_model_is_refused(on_gpu, arguments):
    with pytest.raises(RequestError, match="'other' is a second one in addition to"):
        on_gpu(*arguments)


@pytest.mark.parametrize(
    ("version", "arguments", "tracked"),
    [
        ("0.20.1", (), False),
        ("0.21.0", (), True),
        ("", (), True),
        ("0.32.0", ("--load-format", "runai_streamer"), False),
        ("0.32.0", ("--load-format", "safetensors"), True),
    ],
)
def test_weights_are_tracked_if_vllm_can(on_gpu, version, arguments, tracked):
    context = on_gpu(*arguments, vllm=VllmInstall(("vllm", "serve"), "", version))
    assert ("--model-loader-extra-config" in argv(context)) is tracked


def test_arguments_that_end_the_tracking_give_a_warning(on_gpu):
    assert untracked(on_gpu()) == ""
    config = "--model-loader-extra-config"
    assert 'Add "enable_weights_track": true to it.' in untracked(on_gpu(config, "{}"))
    assert untracked(on_gpu(config, '{"enable_weights_track": false}')) == ""


def test_a_kernel_for_float16_only_gets_float16(on_gpu, checkpoint, tmp_path):
    """AWQ on a T4 before Marlin took it."""
    folder = copied(checkpoint, tmp_path / "bf16")
    rewrite_json(folder / "config.json", dtype="bfloat16", torch_dtype="bfloat16")
    old = VllmInstall(("vllm", "serve"), "", "0.9.2")
    context = replace(on_gpu(gpu="T4", vllm=old), folder=folder)
    assert context.dtype == "float16"


def test_the_key_is_not_in_the_command(checkpoint, tmp_path, monkeypatch):
    stand_in(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    request = ServeOptions(str(checkpoint), api_key="s3cret", vllm_python=sys.executable)
    command, variables = command_of(request)
    assert "s3cret" not in " ".join(command)
    assert variables["VLLM_API_KEY"] == "s3cret"


def test_without_vllm_the_command_is_vllm_serve(checkpoint, monkeypatch):
    monkeypatch.setattr("salient.serve.vllm.launch.find_vllm", lambda _: None)
    command, _ = command_of(ServeOptions(str(checkpoint)))
    assert command[:3] == ["vllm", "serve", str(checkpoint)]


def test_on_a_processor_the_cache_has_a_size_and_the_type_is_bfloat16(checkpoint, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    context = launch_context(ServeOptions(str(checkpoint)), replace(VLLM, cpu=True))
    command, variables = command_line(context, MemoryFit(64, cache_gib=2))
    assert variables == {"VLLM_CPU_KVCACHE_SPACE": "2"}
    assert "--gpu-memory-utilization" not in command
    assert command[command.index("--dtype") + 1] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensor_parallel_size": 0}, "--tensor-parallel-size 0 is out of range: give 1 to"),
        ({"port": 70000}, "--port 70000 is out of range: give 0 to 65535"),
        ({"context_length": 10**6}, "exceeds the model's maximum of 512 tokens"),
        ({"concurrency": -1}, "--concurrency -1 is out of range"),
    ],
)
def test_invalid_numbers_are_refused(checkpoint, changes, message):
    with pytest.raises(RequestError, match=message):
        command_of(ServeOptions(str(checkpoint), **changes))


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"There is no folder .*config\.json and safetensors"):
        command_of(ServeOptions(str(tmp_path / "none")))
    with pytest.raises(ModelError, match=r"has no config\.json"):
        command_of(ServeOptions(str(tmp_path)))
