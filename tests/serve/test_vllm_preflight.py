"""What is refused or told before vLLM starts."""

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
from salient.diagnose.host.environment import Environment, GpuInfo
from salient.plan.gpus import find_gpu
from salient.serve.options import ServeOptions
from salient.serve.vllm import device as places
from salient.serve.vllm.command import words_of
from salient.serve.vllm.device import TargetDevice, find_place, visible
from salient.serve.vllm.launch import run_vllm
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
from salient.serve.vllm.target import survey
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
    return survey(ServeOptions(str(folder), vllm_args=vllm_args, **changes), vllm)


@pytest.fixture
def llama(good):
    """What is known of Llama 3.1 8B in 4 bits, as if its files were here, on one RTX 4090."""

    def on(*vllm_args, gpu="RTX 4090", count=1, free=None, size=5.7, **changes):
        device = find_gpu(gpu)
        place = TargetDevice(device, count, int((device.memory if free is None else free) * GIB))
        shape, _ = resolve_shape("meta-llama/Llama-3.1-8B")
        found = known(good, *vllm_args)
        request = replace(found.request, **changes)
        return replace(found, request=request, shape=shape, size=int(size * GIB), place=place)

    return on


def heard(check, *arguments):
    lines = []
    check(*arguments, lines.append)
    return "\n".join(lines)


def test_a_sound_checkpoint_is_said_to_be_one(good):
    assert "quantized linears, awq, no fault found." in heard(check_checkpoint, known(good))


def test_a_checkpoint_that_computes_wrong_numbers_is_refused_before_vllm_starts(
    toy, tmp_path, monkeypatch
):
    """Other settings than the tensors have: vLLM loads some such without a word."""
    settings = json.loads((toy / "config.json").read_text())["quantization_config"]
    rewrite_json(toy / "config.json", quantization_config={**settings, "group_size": 64})
    stand_in(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = tmp_path / "told.jsonl"
    monkeypatch.setenv("STAND_IN", json.dumps({"told": str(told)}))
    words = (
        r"(?s)would not load, or would compute wrong numbers; vLLM was not started.*ERROR: .*do:"
    )
    with pytest.raises(CheckpointError, match=words):
        run_vllm(ServeOptions(str(toy), port=1024, vllm_python=sys.executable), print)
    assert not told.exists()


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="safetensors"):
        check_checkpoint(known(tmp_path), print)


def test_a_slow_kernel_that_is_foreseen_is_told(good):
    old = replace(VLLM, version="0.9.2")
    found = replace(known(good, vllm=old), place=TargetDevice(find_gpu("T4"), 1, 16 * GIB))
    assert "vLLM will take awq_gemm, a slow kernel" in heard(check_checkpoint, found)


def test_a_taken_port_is_refused_and_a_free_one_is_not():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(RequestError, match=rf"listen on 127\.0\.0\.1:{port} \(.*in use"):
            check_address(Address("127.0.0.1", port))
    check_address(Address("127.0.0.1", port))


def test_the_address_is_the_one_of_the_users_words(good):
    assert address_of(known(good, "--port", "9")) == Address("127.0.0.1", 9)
    assert address_of(known(good, "--host=::")).words == "http://[::1]:8000"
    assert address_of(known(good, "--host", "0.0.0.0")).words == "http://127.0.0.1:8000"
    assert address_of(known(good, "--uds", "/tmp/a")).words == "unix:/tmp/a"
    assert address_of(known(good, "--headless")) is None


def test_settings_that_hurt_are_told_and_stop_nothing(good):
    found = known(good, "--enforce-eagr", "--trust-remote-code", host="0.0.0.0")
    command, variables = words_of(found, MemoryFit(64))
    said = heard(check_settings, found, command, variables)
    assert "has no argument enforce_eagr; it has enforce_eager" in said
    assert "runs Python that comes with the model" in said
    assert "there is no API key" in said
    found = known(good, host="0.0.0.0", api_key="k")
    assert heard(check_settings, found, *words_of(found, MemoryFit(64))) == ""


def test_what_fits_is_served_whole_and_said(llama):
    fit = plan_fit(llama(context_length=8192, concurrency=4))
    assert (fit.context, fit.refused) == (8192, "")
    assert "weights 5.70 GiB, the cache of 4 sequences x 8192 tokens 4.00 GiB" in fit.said[0]


def test_a_context_that_nobody_asked_for_is_cut_to_what_fits(llama):
    fit = plan_fit(llama())
    assert 32_768 < fit.context < 131_072
    assert f"made for 131072 tokens; {fit.context} fit and are served" in fit.said[1]
    assert plan_fit(llama(gpu="H100")).context == 131_072


def test_a_context_that_was_asked_for_is_kept_with_a_warning(llama):
    fit = plan_fit(llama(context_length=131_072))
    assert fit.context == 131_072
    assert "That may not fit: one sequence of" in fit.said[1]
    fit = plan_fit(llama("--max-model-len", "8192", concurrency=100))
    assert "such sequences do; more of them wait for each other" in fit.said[1]


@pytest.mark.parametrize(
    ("given", "changes", "words"),
    [
        ((), {"size": 40}, r"The weights take 40\.00 GiB of each GPU.*--tp"),
        ((), {"tensor_parallel_size": 2}, r"2 GPUs are asked for \(--tp 2\), and vLLM sees 1 here"),
        (("-tp", "2", "-pp", "2"), {}, r"4 GPUs are asked for \(--tp 2, 2 pipeline stages\)"),
        ((), {"free": 6}, r"6\.00 GiB of RTX 4090's .* are free.*--gpu-memory-utilization 0\.25"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_way_out(llama, given, changes, words):
    fit = plan_fit(llama(*given, **changes))
    with pytest.raises(ResourceError, match=rf"{words}(?s:.*)\nvLLM was not started\."):
        check_fit(fit, print)


@pytest.mark.parametrize(
    ("given", "changes"),
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
def test_what_the_users_words_make_possible_is_not_refused(llama, given, changes):
    assert plan_fit(llama(*given, **changes)).refused == ""


def on_processor(found, free, size=0.2):
    cpu = replace(find_gpu("EPYC 9654"), memory=64)
    return replace(found, place=TargetDevice(cpu, 0, int(free * GIB)), size=int(size * GIB))


def test_on_a_processor_the_cache_takes_what_is_asked_for_and_no_more(llama, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    asked = llama(context_length=8192, concurrency=4)
    assert plan_fit(on_processor(asked, 60)).cache_gib == 4
    assert plan_fit(on_processor(asked, 5)).cache_gib == 2
    fit = plan_fit(on_processor(llama(), 10))
    assert (fit.context, fit.cache_gib) == (57_344, 7)


def test_on_a_processor_without_room_it_is_said(llama):
    fit = plan_fit(on_processor(llama(context_length=8192), 2.5, size=0.1))
    assert "That may not fit: end other programs" in fit.said[1]
    fit = plan_fit(on_processor(llama(), 4, size=6))
    with pytest.raises(ResourceError, match=r"weights take 6\.00 GiB, and 4\.00 GiB of memory"):
        check_fit(fit, print)


def test_a_cache_that_the_user_has_sized_is_left_to_him(llama, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    sized = on_processor(llama("--kv-cache-memory-bytes", "4G"), 60)
    assert plan_fit(sized).cache_gib is None
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    fit = plan_fit(on_processor(llama(), 60))
    assert (fit.context, fit.cache_gib) == (24_576, None)
    assert "3.00 GiB of cache for 1 sequence of 24576 tokens" in fit.said[0]


def test_float32_activations_take_a_cache_twice_as_large(llama):
    half = plan_fit(llama(context_length=8192, concurrency=4))
    single = plan_fit(llama("--dtype", "float32", context_length=8192, concurrency=4))
    assert "tokens 4.00 GiB" in half.said[0]
    assert "tokens 8.00 GiB" in single.said[0]


def test_on_an_unknown_device_nothing_is_planned_and_that_is_said(llama):
    fit = plan_fit(replace(llama(context_length=99), place=None))
    assert fit == MemoryFit(99, said=("Memory was not planned: the GPU is not known here.",))


@pytest.mark.parametrize(
    ("told", "seen"),
    [(None, 3), ("", 0), ("-1", 0), ("2,0", 2), ("0,7,1", 1), ("GPU-8f2a", 3)],
)
def test_the_cards_are_those_that_a_cuda_program_sees(told, seen):
    cards = tuple(replace(CARD, used=float(n)) for n in range(3))
    environment = {} if told is None else {"CUDA_VISIBLE_DEVICES": told}
    assert len(visible(cards, environment)) == seen
    if told == "2,0":
        assert [card.used for card in visible(cards, environment)] == [2, 0]


def test_the_place_is_the_smallest_card_that_is_taken(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    small = replace(CARD, name="Some GPU of tomorrow", memory=8192, used=192)
    machine = Environment(cards=(CARD, small), cpu="Xeon", memory=64 * GIB, flags=("amx_tile",))
    monkeypatch.setattr(places, "read_environment", lambda: machine)
    one, both = find_place(VLLM), find_place(VLLM, 2)
    assert (one.gpu.name, one.count) == ("RTX 4090", 2)
    assert (both.gpu.name, both.gpu.capability, both.free) == (small.name, 89, 8000 * 2**20)
    cpu = find_place(replace(VLLM, cpu=True))
    assert (cpu.gpu.vendor, cpu.gpu.architecture, cpu.count) == ("cpu", "AMX", 0)


def test_no_card_and_a_vllm_that_may_be_for_any_device_is_an_unknown_place(monkeypatch):
    monkeypatch.setattr(places, "read_environment", Environment)
    assert find_place(VLLM) is None


def test_a_card_that_shares_memory_is_taken_for_what_the_catalogue_says(monkeypatch):
    shared = replace(CARD, memory=0, used=0)
    monkeypatch.setattr(places, "read_environment", lambda: Environment(cards=(shared,)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_place(VLLM).free == round(find_gpu("RTX 4090").memory * GIB)
