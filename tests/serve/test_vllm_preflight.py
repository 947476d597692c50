"""Refusals and warnings before vLLM starts."""

import json
import socket
import sys
from dataclasses import replace

import pytest

from helpers.faults import copied
from helpers.rtn_checkpoints import rounded_toy
from helpers.toy_models import rewrite_json
from helpers.vllm_process import stand_in
from salient.core.errors import CheckpointError, ModelError, RequestError, ResourceError
from salient.diagnose.host.gpu_query import GpuInfo
from salient.diagnose.host.probe import Environment
from salient.plan.device_names import find_gpu
from salient.serve.options import ServeOptions
from salient.serve.vllm import target
from salient.serve.vllm.launch import command_line, run_vllm
from salient.serve.vllm.locate import VllmInstall
from salient.serve.vllm.memory_fit import MemoryFit, plan_fit
from salient.serve.vllm.preflight import (
    Address,
    address_of,
    check_address,
    check_checkpoint,
    check_fit,
    check_settings,
)
from salient.serve.vllm.target import TargetDevice, launch_context, target_device, visible
from salient.shapes.resolve import resolve_shape

GIB = 2**30
VLLM = VllmInstall(("vllm", "serve"), "", "0.32.0")
CARD = GpuInfo("NVIDIA GeForce RTX 4090", "nvidia", memory=24564, used=100, capability=89)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return rounded_toy(tmp_path_factory.mktemp("rounded"))


@pytest.fixture
def toy(good, tmp_path):
    return copied(good, tmp_path / "toy")


def known(folder, *vllm_args, vllm=VLLM, **changes):
    return launch_context(ServeOptions(str(folder), vllm_args=vllm_args, **changes), vllm)


@pytest.fixture
def llama(good):
    """What is known of Llama 3.1 8B in 4 bits, as if its files were here, on one RTX 4090."""

    def on(*vllm_args, gpu="RTX 4090", count=1, free=None, size=5.7, **changes):
        device = find_gpu(gpu)
        place = TargetDevice(device, count, int((device.memory if free is None else free) * GIB))
        shape, _ = resolve_shape("meta-llama/Llama-3.1-8B")
        context = known(good, *vllm_args)
        options = replace(context.options, **changes)
        return replace(context, options=options, shape=shape, size=int(size * GIB), device=place)

    return on


def lines_of(check, *arguments):
    lines = []
    check(*arguments, lines.append)
    return "\n".join(lines)


def test_a_sound_checkpoint_passes(good):
    assert "quantized linears, awq, no faults." in lines_of(check_checkpoint, known(good))


def test_a_template_that_an_option_can_replace_is_shown_and_not_refused(toy):
    (toy / "chat_template.jinja").write_text("{% for")
    shown = lines_of(check_checkpoint, known(toy))
    assert "ERROR: The chat template does not render" in shown
    assert "awq, no faults of its weights." in shown


def test_a_checkpoint_that_computes_wrong_numbers_is_refused_before_vllm_starts(
    toy, tmp_path, monkeypatch
):
    """Other settings than the tensors have: vLLM loads some such without a word."""
    settings = json.loads((toy / "config.json").read_text())["quantization_config"]
    rewrite_json(toy / "config.json", quantization_config={**settings, "group_size": 64})
    stand_in(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    record = tmp_path / "record.jsonl"
    monkeypatch.setenv("STAND_IN", json.dumps({"record": str(record)}))
    message = (
        r"(?s)would not load, or would compute wrong numbers; vLLM was not started.*ERROR: .*do:"
    )
    with pytest.raises(CheckpointError, match=message):
        run_vllm(ServeOptions(str(toy), port=1024, vllm_python=sys.executable), print)
    assert not record.exists()


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="safetensors"):
        check_checkpoint(known(tmp_path), print)


def test_an_expected_slow_kernel_gives_a_warning(good):
    old = replace(VLLM, version="0.9.2")
    context = replace(known(good, vllm=old), device=TargetDevice(find_gpu("T4"), 1, 16 * GIB))
    assert "vLLM will take awq_gemm, a slow kernel" in lines_of(check_checkpoint, context)


def test_only_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(RequestError, match=rf"listen on 127\.0\.0\.1:{port} \(.*in use"):
            check_address(Address("127.0.0.1", port))
    check_address(Address("127.0.0.1", port))


def test_the_address_follows_the_users_arguments(good):
    assert address_of(known(good, "--port", "9")) == Address("127.0.0.1", 9)
    assert address_of(known(good, "--host=::")).url == "http://[::1]:8000"
    assert address_of(known(good, "--host", "0.0.0.0")).url == "http://127.0.0.1:8000"
    assert address_of(known(good, "--uds", "/tmp/a")).url == "unix:/tmp/a"
    assert address_of(known(good, "--headless")) is None


def test_bad_settings_give_warnings_and_stop_nothing(good):
    context = known(good, "--enforce-eagr", "--trust-remote-code", host="0.0.0.0")
    command, variables = command_line(context, MemoryFit(64))
    text = lines_of(check_settings, context, command, variables)
    assert "has no argument enforce_eagr; it has enforce_eager" in text
    assert "runs Python that comes with the model" in text
    assert "there is no API key" in text
    context = known(good, host="0.0.0.0", api_key="k")
    assert lines_of(check_settings, context, *command_line(context, MemoryFit(64))) == ""


def test_a_context_that_fits_is_served_in_full(llama):
    fit = plan_fit(llama(context_length=8192, concurrency=4))
    assert (fit.context, fit.refusal) == (8192, "")
    assert "weights 5.70 GiB, the cache of 4 sequences x 8192 tokens 4.00 GiB" in fit.lines[0]


def test_a_default_context_is_cut_to_what_fits(llama):
    fit = plan_fit(llama())
    assert 32_768 < fit.context < 131_072
    assert f"made for 131072 tokens; {fit.context} fit and are served" in fit.lines[1]
    assert plan_fit(llama(gpu="H100")).context == 131_072


def test_a_requested_context_stays_with_a_warning(llama):
    fit = plan_fit(llama(context_length=131_072))
    assert fit.context == 131_072
    assert "That may not fit: one sequence of" in fit.lines[1]
    fit = plan_fit(llama("--max-model-len", "8192", concurrency=100))
    assert "such sequences do; more of them wait for each other" in fit.lines[1]


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ((), {"size": 40}, r"The weights take 40\.00 GiB of each GPU.*--tp"),
        ((), {"tensor_parallel_size": 2}, r"2 GPUs are requested \(--tp 2\), and vLLM sees 1 here"),
        (("-tp", "2", "-pp", "2"), {}, r"4 GPUs are requested \(--tp 2, 2 pipeline stages\)"),
        ((), {"free": 6}, r"6\.00 GiB of RTX 4090's .* are free.*--gpu-memory-utilization 0\.25"),
    ],
)
def test_a_model_that_cannot_fit_is_refused_with_the_ways_out(llama, arguments, changes, message):
    fit = plan_fit(llama(*arguments, **changes))
    with pytest.raises(ResourceError, match=rf"{message}(?s:.*)\nvLLM was not started\."):
        check_fit(fit, print)


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (("--cpu-offload-gb", "30"), {"size": 40}),
        (("--nnodes", "2"), {"tensor_parallel_size": 2}),
        (("--distributed-executor-backend", "ray"), {"tensor_parallel_size": 16}),
        (("--gpu-memory-utilization", "0.2"), {"free": 6, "size": 1}),
        (("--kv-cache-memory-bytes", "2G"), {"free": 10}),
        (("-pp", "2"), {"count": 2, "size": 30}),
        (("-tp", "2"), {"count": 2, "size": 30}),
    ],
)
def test_the_users_arguments_can_make_a_model_fit(llama, arguments, changes):
    assert plan_fit(llama(*arguments, **changes)).refusal == ""


def on_processor(context, free, size=0.2):
    cpu = replace(find_gpu("EPYC 9654"), memory=64)
    return replace(context, device=TargetDevice(cpu, 0, int(free * GIB)), size=int(size * GIB))


def test_on_a_processor_the_cache_has_the_requested_size(llama, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    requested = llama(context_length=8192, concurrency=4)
    assert plan_fit(on_processor(requested, 60)).cache_gib == 4
    assert plan_fit(on_processor(requested, 5)).cache_gib == 2
    fit = plan_fit(on_processor(llama(), 10))
    assert (fit.context, fit.cache_gib) == (57_344, 7)


def test_on_a_processor_too_little_memory_gives_a_warning(llama):
    fit = plan_fit(on_processor(llama(context_length=8192), 2.5, size=0.1))
    assert "That may not fit: end other programs" in fit.lines[1]
    fit = plan_fit(on_processor(llama(), 4, size=6))
    with pytest.raises(ResourceError, match=r"weights take 6\.00 GiB, and 4\.00 GiB of memory"):
        check_fit(fit, print)


def test_the_users_cache_size_stays(llama, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    sized = on_processor(llama("--kv-cache-memory-bytes", "4G"), 60)
    assert plan_fit(sized).cache_gib is None
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    fit = plan_fit(on_processor(llama(), 60))
    assert (fit.context, fit.cache_gib) == (24_576, None)
    assert "3.00 GiB of cache for 1 sequence of 24576 tokens" in fit.lines[0]


def test_float32_activations_take_a_cache_twice_as_large(llama):
    half = plan_fit(llama(context_length=8192, concurrency=4))
    single = plan_fit(llama("--dtype", "float32", context_length=8192, concurrency=4))
    assert "tokens 4.00 GiB" in half.lines[0]
    assert "tokens 8.00 GiB" in single.lines[0]


def test_on_an_unknown_device_no_memory_is_planned(llama):
    fit = plan_fit(replace(llama(context_length=99), device=None))
    assert fit == MemoryFit(99, lines=("Memory was not planned: the GPU is not known here.",))


@pytest.mark.parametrize(
    ("variable", "count"),
    [(None, 3), ("", 0), ("-1", 0), ("2,0", 2), ("0,7,1", 1), ("GPU-8f2a", 3)],
)
def test_visible_cards_are_those_of_a_cuda_program(variable, count):
    cards = tuple(replace(CARD, used=float(n)) for n in range(3))
    environment = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    assert len(visible(cards, environment)) == count
    if variable == "2,0":
        assert [card.used for card in visible(cards, environment)] == [2, 0]


def test_the_device_is_the_smallest_used_card(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    small = replace(CARD, name="Some GPU of tomorrow", memory=8192, used=192)
    machine = Environment(cards=(CARD, small), cpu="Xeon", memory=64 * GIB, flags=("amx_tile",))
    monkeypatch.setattr(target, "read_environment", lambda: machine)
    one, both = target_device(VLLM), target_device(VLLM, 2)
    assert (one.gpu.name, one.count) == ("RTX 4090", 2)
    assert (both.gpu.name, both.gpu.capability, both.free) == (small.name, 89, 8000 * 2**20)
    cpu = target_device(replace(VLLM, cpu=True))
    assert (cpu.gpu.vendor, cpu.gpu.architecture, cpu.count) == ("cpu", "AMX", 0)


def test_without_a_card_the_device_is_unknown(monkeypatch):
    monkeypatch.setattr(target, "read_environment", Environment)
    assert target_device(VLLM) is None


def test_a_card_with_shared_memory_has_the_catalogues_size(monkeypatch):
    shared = replace(CARD, memory=0, used=0)
    monkeypatch.setattr(target, "read_environment", lambda: Environment(cards=(shared,)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert target_device(VLLM).free == round(find_gpu("RTX 4090").memory * GIB)
