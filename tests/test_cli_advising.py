"""plan and doctor from the command line: exit codes, JSON, at once and without torch."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.cli import invoke
from helpers.rtn_checkpoints import rounded_toy
from helpers.toy_models import rewrite_json

LLAMA = "meta-llama/Llama-3.1-8B"
LOGS = Path(__file__).parent / "diagnose" / "logs"
# a shell may have started the tests with SIGINT ignored
FOLLOWED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from salient.cli import main
main()
"""
DOWN = "model.layers.1.mlp.down_proj"


def call(*arguments: object):
    return invoke(*arguments)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny checkpoint with a tokenizer; do not change it."""
    return rounded_toy(tmp_path_factory.mktemp("advising"))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(good, tmp_path / "checkpoint"))


# plan


def test_a_plan_is_one_json_document():
    result = call("plan", LLAMA, "--gpu", "RTX 4090", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["devices"][0]["choice"].startswith("awq")


def test_a_plan_that_nothing_meets_exits_with_1_and_still_tells():
    result = call("plan", LLAMA, "--gpu", "RTX 4090", "--require", "decode=100000", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["good"] is False


@pytest.mark.parametrize(
    "arguments",
    [("no-such-model",), (LLAMA, "--gpu", "RTX 9999"), (LLAMA, "--require", "speed=1"),
     (LLAMA, "--context-length", "0"), (LLAMA, "--vram", "-1"), (LLAMA, "--vram", "nan"), ("a\0b",),
     ("x" * 5000,), (".",)],
)  # fmt: skip
def test_a_plan_of_nonsense_exits_with_2_and_a_message(arguments):
    result = call("plan", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_a_local_config_is_planned_as_the_folder_is(good):
    plans = [call("plan", path, "--json") for path in (good, good / "config.json")]
    counts = [json.loads(result.stdout)["parameters"] for result in plans]
    assert counts[0] == counts[1]


# doctor: logs


@pytest.mark.parametrize(
    ("log", "first"),
    [
        ("float32", "quantization-dtype"),
        ("no_quantization_config", "no-quantization-config"),
        ("awq_marlin_on_cpu", "quantization-mismatch"),
        ("wrong_group_size", "tensor-shape"),
    ],
)
def test_a_log_of_a_failure_exits_with_1_and_names_its_cause_first(log, first):
    result = call("doctor", "--log", LOGS / f"{log}.txt", "--json")
    assert result.exit_code == 1
    findings = json.loads(result.stdout)["findings"]
    assert (findings[0]["id"], findings[0]["level"]) == (first, "error")
    assert findings[0]["evidence"][0]["where"].startswith(f"{log}.txt:")


@pytest.mark.parametrize("log", ["healthy_cpu", "healthy_serve"])
def test_a_healthy_log_exits_with_0(log):
    result = call("doctor", "--log", LOGS / f"{log}.txt")
    assert result.exit_code == 0
    assert "Nothing found that is wrong or slow." in result.stdout


def test_a_log_comes_through_a_pipe_too():
    text = (LOGS / "float32.txt").read_bytes()
    run = subprocess.run(
        [sys.executable, "-m", "salient", "doctor", "--log", "-"], input=text, capture_output=True
    )
    assert run.returncode == 1
    assert b"quantization-dtype" in run.stdout


@pytest.mark.parametrize("form", ["lines", "json"])
def test_a_followed_log_tells_what_is_appended_and_ctrl_c_ends_it_with_the_verdict(form, tmp_path):
    log = tmp_path / "vllm.log"
    log.write_bytes(
        b"WARNING 11-21 01:25:05 [model.py:2498] Casting torch.float16 to torch.bfloat16.\n"
    )
    message = ["doctor", "--log", str(log), "--follow", *(["--json"] if form == "json" else [])]
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOWED, *message], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        line = process.stdout.readline()  # it reads: the cast is told
        with log.open("ab") as file:
            file.write(b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.17 GiB.\n")
        while line and "out-of-memory" not in line:
            line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 1
    if form == "json":
        assert json.loads(line)["level"] == "error"
    else:
        assert line.startswith("ERROR: ")
        assert rest.endswith("Found: 1 wrong.\n")


# doctor: checkpoints


def test_a_good_checkpoint_exits_with_0_and_says_who_loads_it(good):
    result = call("doctor", good, "--gpu", "RTX 4090", "--json")
    data = json.loads(result.stdout)
    assert result.exit_code == 0, result.stdout
    assert {f["level"] for f in data["findings"]} <= {"good", "note", "warning"}
    assert any(row["device"] == "RTX 4090" for row in data["loaders"])


def test_a_device_without_bfloat16_gets_the_type_to_serve_in(good, tmp_path):
    path = tmp_path / "config.json"
    path.write_text((good / "config.json").read_text())
    rewrite_json(path, dtype="bfloat16", torch_dtype="bfloat16")
    result = call("doctor", path, "--gpu", "T4", "--json")
    actual = json.loads(result.stdout)["findings"][0]
    assert (result.exit_code, actual["id"]) == (0, "kernel-fast")
    assert "serve with --dtype float16" in actual["do"]


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    stored = load_file(path) | {n.replace("__", "."): t for n, t in tensors.items()}
    save_file({n: t for n, t in stored.items() if t is not None}, path)


def scale_with_nan(folder: Path) -> torch.Tensor:
    scales = load_file(folder / "model.safetensors")[f"{DOWN}.scales"]
    scales[1, 3] = torch.nan
    return scales


def quantization(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    settings = {**config["quantization_config"], **changes}
    rewrite_json(folder / "config.json", quantization_config=settings)


FAULTS = {
    "one qzeros tensor deleted": (
        lambda f: change(f, **{f"{DOWN}.qzeros".replace(".", "__"): None}),
        f"{DOWN}.qzeros",
    ),
    "one scale NaN": (
        lambda f: change(f, **{f"{DOWN}.scales".replace(".", "__"): scale_with_nan(f)}),
        f"{DOWN}.scales",
    ),
    "a wrong group size": (
        lambda f: quantization(f, group_size=16),
        "layers.0.mlp.down_proj.qweight",
    ),
    "no zero point over asymmetric tensors": (
        lambda f: quantization(f, zero_point=False),
        ".qzeros",
    ),
    "a skip list that hits others": (
        lambda f: quantization(f, modules_to_not_convert=["mlp.gate"]),
        "mlp.gate_proj",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_exits_with_1_and_names_file_and_tensor(fault, folder):
    damage, named = FAULTS[fault]
    damage(folder)
    result = call("doctor", folder, "--json")
    assert result.exit_code == 1
    worst = json.loads(result.stdout)["findings"][0]
    places = " ".join(f"{recorded['where']} {recorded['text']}" for recorded in worst["evidence"])
    assert worst["level"] == "error"
    assert named in places + worst["title"]
    assert "model.safetensors" in places or "config.json" in places


# doctor: what cannot be read


def nonsense() -> list[tuple[str, bytes]]:
    draw = random.Random(0)
    return [
        ("empty", b""),
        ("random", draw.randbytes(5000)),
        ("zeros", b"\0" * 5000),
        ("endless", b"x" * 3_000_000),
        ("binary", b"\x7fELF" + draw.randbytes(3000)),
        ("list", b"[1, 2, 3]"),
        ("deep", b"[" * 50_000),
    ]


@pytest.mark.parametrize("option", ["--log", "--config", None])
@pytest.mark.parametrize(("name", "data"), nonsense())
def test_nonsense_exits_with_2_and_a_message(name, data, option, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    result = call("doctor", option, path) if option else call("doctor", path)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Nothing to diagnose"),
        (("nowhere",), "No checkpoint 'nowhere' here"),
        (
            (__file__,),
            "is not a config.json. Give a checkpoint folder or its config.json; a log goes",
        ),
        (("--log", "nowhere.log"), "nowhere.log"),
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
        (("--follow",), "--follow needs a log"),
        (("--env", "--gpu", "RTX 9999"), "Unknown device"),
        (("--env", "--tp", "0"), "--tensor-parallel-size 0 is out of range"),
        (("--env", "--engine-version", "new"), "new"),
    ],
)
def test_what_cannot_be_read_is_reported(arguments, message):
    result = call("doctor", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    "value", [None, True, -1, 10**30, "big", [], {}, [[1]], {"a": {"b": 1}}, 1.5, "\0"]
)
@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "quantization_config", "model_type", "vocab_size"]
)
def test_a_config_of_wrong_types_is_no_traceback(key, value, good, tmp_path):
    path = tmp_path / "config.json"
    path.write_text((good / "config.json").read_text())
    rewrite_json(path, **{key: value})
    for command in ("plan", "doctor"):
        result = call(command, path)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert result.exit_code in (0, 1, 2)


def test_this_machine_is_looked_at_without_a_gpu():
    result = call("doctor", "--env", "--json")
    assert result.exit_code in (0, 1)
    assert json.loads(result.stdout)["read"] == ["this machine"]


# at once, without torch


LIBRARIES = "import cyclopts, rich.table, rich.progress, numpy"


def seconds_of(*message: str) -> float:
    """Processor seconds of one cold run of Python, compiled as an installed package is."""
    compiled = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *message], capture_output=True, env=compiled)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def at_once(*message: str) -> bool:
    """Under 0.7 s; on a slow or busy machine under three times what the libraries alone take."""
    return seconds_of("-m", "salient", *message) < max(0.7, 3 * seconds_of("-c", LIBRARIES))


@pytest.mark.parametrize("command", ["plan", "doctor log", "doctor checkpoint"])
def test_an_answer_takes_less_than_seven_tenths_of_a_second(command, good):
    arguments = {
        "plan": ("plan", LLAMA, "--gpu", "RTX 4090,H100"),
        "doctor log": ("doctor", "--log", str(LOGS / "healthy_serve.txt")),
        "doctor checkpoint": ("doctor", str(good), "--gpu", "RTX 4090"),
    }[command]
    assert any(at_once(*arguments) for _ in range(4))


def test_help_takes_less_than_three_tenths_of_a_second():
    """Or on a slow or busy machine under twice what the libraries alone take."""
    limit = max(0.3, 2 * seconds_of("-c", LIBRARIES))
    assert any(seconds_of("-m", "salient", "--help") < limit for _ in range(4))


@pytest.mark.parametrize("command", ["plan", "doctor"])
def test_an_answer_imports_no_torch(command, good):
    arguments = {
        "plan": ["plan", str(good), "--gpu", "RTX 4090", "--adr", str(good.parent / "adr.md")],
        "doctor": ["doctor", str(good), "--log", str(LOGS / "healthy_cpu.txt"), "--env"],
    }[command]
    message = (
        "import sys, contextlib\n"
        "from salient.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    main({arguments!r})\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", message], capture_output=True, text=True, check=True
    )
    assert "salient.cli" in run.stderr.split()
    assert not {"torch", "transformers", "huggingface_hub"} & set(run.stderr.split())
