"""Options of the engines' releases, and steps that name them."""

import difflib
import functools
import re
from itertools import product
from pathlib import Path

import pytest

from helpers.shapes import released
from salient.diagnose.checkpoint.contents import FINDINGS
from salient.diagnose.host.host_rules import RULES as HOST_RULES
from salient.diagnose.log import log_rules
from salient.diagnose.log.signature import SIGNATURES
from salient.diagnose.option_text import adapted, changes
from salient.diagnose.serving.read_settings import read_settings
from salient.diagnose.serving.serving_rules import RULES as SERVING_RULES
from salient.diagnose.serving.serving_rules import judge_settings
from salient.diagnose.steps import ServerFacts, Step, step_texts
from salient.diagnose.tables import read_templates
from salient.plan.commands import commands
from salient.plan.device_names import find_gpu
from salient.plan.engine_options import ENGINES as ENGINE_NAMES
from salient.plan.engine_options import (
    accepts,
    ended,
    option_names,
    releases,
    span_text,
)
from salient.plan.engine_profiles import ENGINES
from salient.plan.memory import Workload
from salient.plan.ranking import candidates
from salient.plan.requirements import Requirements

ROOTS = read_templates(Path(log_rules.__file__).with_name("roots.toml")).values()
ROWS = (*SIGNATURES, *log_rules.RULES, *ROOTS, *SERVING_RULES, *HOST_RULES, *FINDINGS.values())
VLLM = [release for release in releases("vllm") if release >= (0, 8)]
KNOWN = {name for engine in ENGINE_NAMES for name in option_names(engine)}
OPTION = re.compile(r"(?<![\w/-])--([a-z][\w-]*)")
OTHER_COMMAND = re.compile(r"(?:salient|docker) \w+(?:(?!, (?:or|and) )[^`;])*")


def refused(text: str, engine: str, release: tuple[int, ...]) -> list[str]:
    """The options in a text that the release lacks; options that no engine has are of others."""
    names = [name.replace("-", "_") for name in OPTION.findall(OTHER_COMMAND.sub("", text))]
    return [name for name in names if not accepts(engine, name, release) and is_of_an_engine(name)]


@functools.cache
def is_of_an_engine(name: str) -> bool:
    """Whether an engine has the option, or one that is spelled almost so."""
    return name in KNOWN or bool(difflib.get_close_matches(name, KNOWN, cutoff=0.9))


class Anything(dict):
    """A value for every brace."""

    def __missing__(self, name):
        return Value(name)


class Value(str):
    def __getattr__(self, name):
        return Value(name)

    def __getitem__(self, name):
        return Value(name)

    def __format__(self, spec):
        return "1"


def test_the_table_has_every_release_of_vllm():
    assert [release[1] for release in VLLM] == list(range(8, 34))


@pytest.mark.parametrize(
    ("engine", "name", "release", "accepted"),
    [
        ("vllm", "swap_space", (0, 17), True),
        ("vllm", "swap_space", (0, 18), False),
        ("vllm", "attention_backend", (0, 12), False),
        ("vllm", "attention_backend", (0, 13, 1), True),
        ("vllm", "no_enable_prefix_caching", (0, 10), True),
        ("vllm", "tensor_parallel_size", (0, 99), True),
        ("vllm", "mem_fraction_static", None, False),
        ("sglang", "mem_fraction_static", (0, 5, 23), True),
        ("sglang", "tp", (0, 4, 6), True),
        ("sglang", "enable_ep_moe", (0, 5, 4), False),
    ],
)
def test_a_release_accepts_its_own_options(engine, name, release, accepted):
    assert accepts(engine, name, release) is accepted


def test_values_and_variables_belong_to_releases_too():
    assert not accepts("vllm", "quantization auto_awq", (0, 23), "values")
    assert accepts("vllm", "VLLM_USE_V1", (0, 10), "variables")
    assert span_text("vllm", "swap_space") == "before 0.18"
    assert ended("vllm", "swap_space", (0, 20)) == (0, 18)


@pytest.mark.parametrize(
    ("text", "server", "result"),
    [
        (
            "Use --attention-backend TRITON_ATTN.",
            (0, 10),
            "Use VLLM_ATTENTION_BACKEND=TRITON_ATTN.",
        ),
        ("Use VLLM_ATTENTION_BACKEND=FLASHINFER.", (0, 20), "Use --attention-backend FLASHINFER."),
        ("Lower --swap-space.", (0, 20), ""),
        ("Serve with --quantization auto_awq.", (0, 20), ""),
        ("salient quantize X --reference Y, --quantization none", (0, 20), None),
        (
            "Use --linear-backend humming.",
            None,
            "Use --linear-backend humming (vLLM 0.22 or newer).",
        ),
    ],
)
def test_a_step_names_the_options_of_its_release(text, server, result):
    assert adapted(text, server and "vllm", server) == (text if result is None else result)


def test_a_step_for_sglang_names_the_options_of_sglang():
    text = "Lower --gpu-memory-utilization and --max-num-seqs; add GPUs: --tensor-parallel-size 2"
    assert adapted(text, "sglang", (0, 5, 3)) == (
        "Lower --mem-fraction-static and --max-running-requests; add GPUs: --tensor-parallel-size 2"
    )
    assert adapted("Drop --enable-sleep-mode.", "sglang", (0, 5, 3)) == ""


def test_a_step_without_its_engine_in_the_table_is_left_out():
    assert adapted("Lower --gpu-memory-utilization.", "ollama", None) == ""
    own = Step("Lower --ctx-size and --parallel.")
    assert step_texts([own], ServerFacts(engine="llama.cpp"), {}) == (own.text,)


@pytest.mark.parametrize(
    "text",
    [
        "Lower --tensor-parallel-size.",
        "Add --enforce-eager.",
        "Serve with --dtype half.",
        "Raise --gpu-memory-utilization.",
        "Drop --quantization awq.",
        "Set --max-num-seqs 64.",
    ],
)
def test_a_step_that_changes_nothing_is_left_out(text):
    arguments = {"enforce_eager": True, "max_num_seqs": 64}
    server = ServerFacts(
        tp=1, dtype="float16", utilization=0.97, arguments=arguments, complete=True
    )
    assert step_texts([Step(text)], server, {}) == ()
    assert step_texts([Step(text)], ServerFacts(), {}) == (text,)


def test_a_step_that_contradicts_an_earlier_one_is_left_out():
    steps = [
        Step("Raise --gpu-memory-utilization."),
        Step("Lower --gpu-memory-utilization by 0.05."),
        Step("Serve with --dtype bfloat16."),
        Step("Serve with --dtype float16."),
    ]
    assert step_texts(steps, ServerFacts(), {}) == (steps[0].text, steps[2].text)


def test_the_verb_before_an_option_is_its_change():
    text = "Raise --max-num-seqs above 8; drop --enforce-eager, or serve with --dtype half."
    assert [(c.option, c.action, c.value) for c in changes(text)] == [
        ("max_num_seqs", "raise", ""),
        ("enforce_eager", "drop", ""),
        ("dtype", "set", "half"),
    ]


@pytest.mark.parametrize("version", VLLM, ids=lambda version: f"{version[0]}.{version[1]}")
def test_every_step_names_options_that_its_release_accepts(version):
    servers = [
        ServerFacts("vllm", version, "nvidia", 9.0, tp=2),
        ServerFacts("vllm", version, "cpu", tp=1),
    ]
    for row, server in product(ROWS, servers):
        for text in step_texts(row.do, server, Anything()):
            assert refused(text, "vllm", version) == [], (row.id, text)


@pytest.mark.parametrize("release", releases("sglang"), ids=lambda one: ".".join(map(str, one)))
def test_every_step_for_sglang_names_options_that_its_release_accepts(release):
    server = ServerFacts("sglang", release)
    for row in ROWS:
        for text in step_texts(row.do, server, Anything()):
            assert refused(text, "sglang", release) == [], (row.id, text)


@pytest.mark.parametrize("version", VLLM, ids=lambda version: f"{version[0]}.{version[1]}")
def test_every_line_of_plan_is_accepted_by_its_release_and_by_doctor(version, tmp_path):
    cases = [("Llama-3.1-8B", "T4", "auto"), ("Qwen3-30B-A3B", "A100", "fp8")]
    for model, device, kv_dtype in cases:
        shape, gpu = released(model), find_gpu(device)
        load = Workload(ENGINES["vllm"], gpu, 4096, version=version, tp=2, kv_dtype=kv_dtype)
        for candidate in candidates(shape, load, Requirements()):
            line = "".join(commands("m", shape, candidate, load)[-1:])
            if not candidate.runs or not line.startswith("vllm serve"):
                continue
            assert refused(line, "vllm", version) == [], line
            (tmp_path / "serve.sh").write_text(line)
            findings = judge_settings(
                read_settings(tmp_path / "serve.sh"), gpu=gpu, version=version
            )
            assert [f.title for f in findings if f.level == "error"] == [], line
