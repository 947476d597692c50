"""Real logs of vLLM 0.32, and files that are not logs."""

import io
import os
import random
import threading
import time
from pathlib import Path

import pytest

from salient.core.errors import RequestError
from salient.core.progress import Progress
from salient.diagnose.finding import BAD, CERTAINTIES, LEVELS
from salient.diagnose.log import log_reader
from salient.diagnose.log.log_facts import ANCHORS
from salient.diagnose.log.log_reader import LogReading, follow, read_log, read_stream
from salient.diagnose.log.signature import SIGNATURES

LOGS = Path(__file__).parent / "logs"
NAMES = sorted(path.name for path in LOGS.glob("*.txt"))


def read(text: str | bytes) -> LogReading:
    data = text.encode() if isinstance(text, str) else text
    return read_stream(io.BytesIO(data), "a.log", size=len(data))


def ids(reading: LogReading) -> dict[str, str]:
    return {finding.id: finding.level for finding in reading.findings}


@pytest.mark.parametrize("name", ["healthy_cpu.txt", "healthy_serve.txt", "missing_zeros.txt"])
def test_a_log_without_a_fault_gives_notes_and_good_only(name):
    assert set(ids(read_log(LOGS / name)).values()) == {"note", "good"}


@pytest.mark.parametrize(
    ("name", "cause", "word"),
    [
        ("float32.txt", "quantization-dtype", "--dtype float16"),
        ("no_quantization_config.txt", "no-quantization-config", "noqc-AWQ"),
        ("awq_marlin_on_cpu.txt", "quantization-mismatch", "Drop --quantization awq_marlin"),
        ("wrong_group_size.txt", "tensor-shape", "group_size"),
    ],
)
def test_the_cause_of_a_failed_start_is_the_first_finding(name, cause, word):
    first, *others = read_log(LOGS / name).findings
    assert (first.id, first.level) == (cause, "error")
    assert word in " ".join(first.do)
    assert not [finding for finding in others if finding.level in BAD]


# Lines of servers on GPUs that ran well, as people showed them in vLLM's issues.
WELL = """
INFO 05-23 09:30:26 [init.py:239] Automatically detected platform cuda.
INFO 05-23 09:30:29 [api_server.py:1043] vLLM API server version 0.8.5.post1
(EngineCore pid=1) WARNING 07-25 13:42:38 [kv_cache_utils.py:1208] Add 3 padding layers, may waste \
at most 6.25% KV cache memory
(EngineCore pid=1) INFO 09-16 13:51:31 [auto_awq.py:451] Using MarlinLinearKernel for \
AutoAWQMarlinLinearMethod
(EngineCore pid=1) INFO 09-16 13:51:36 [gpu_worker.py:436] Available KV cache memory: 36.9 GiB
(EngineCore pid=1) INFO 09-16 13:51:44 [kv_cache_utils.py:2324] GPU KV cache size: 268,560 tokens, \
Maximum concurrency for 2,048 tokens per request: 131.13x
(EngineCore pid=1) INFO 09-16 13:51:44 [kernel_warmup.py:174] JIT kernel warmup starting.
Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%|####| 51/51 [00:10<00:00,  4.86it/s]
(EngineCore pid=1) INFO 09-16 13:51:51 [model_runner.py:1029] Graph capturing finished in 6 secs, \
took 0.22 GiB
(EngineCore pid=1) INFO 09-16 13:51:51 [gpu_worker.py:876] Free memory on device (46.99/47.37 GiB) \
on startup. Desired GPU memory utilization is (0.85, 40.27 GiB). Actual usage is 2.81 GiB
(EngineCore pid=1) 2026-07-25 13:42:38,557 - INFO - autotuner.py:1257 - flashinfer.jit: Config
(Worker_TP0 pid=2) INFO 03-17 17:07:05 [custom_all_reduce.py:216] Registering 212 cuda graphs
(Worker_TP0 pid=2) INFO 03-17 17:07:05 [pynccl.py:103] vLLM is using nccl==2.27.3
node-0:53:271 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.5<0>
node-0:53:271 [0] NCCL INFO Channel 00/0 : 2[0] -> 3[0] [send] via NET/IB/0/GDRDMA
[rank0]:[W1003 18:37:01.832 ProcessGroupNCCL.cpp:1496] Warning: WARNING: destroy_process_group() \
was not called before program exit
INFO:     Application startup complete.
""".replace("\\\n", "")


def test_a_healthy_gpu_server_gives_good_only():
    reading = read(WELL)
    assert set(ids(reading).values()) == {"good"}
    assert reading.facts.kernels == ["MarlinLinearKernel"]
    assert reading.facts.device == "gpu"


def test_a_missing_tensor_gives_the_option_that_finds_it():
    findings = {finding.id: finding for finding in read_log(LOGS / "missing_zeros.txt").findings}
    assert "enable_weights_track" in findings["tensors-untracked"].do[0]
    assert not any("qzeros" in finding.title for finding in findings.values())


def test_the_facts_of_a_served_model():
    facts = read_log(LOGS / "healthy_serve.txt").facts
    assert (facts.engine, facts.version, facts.release) == ("vllm", "0.32.0", (0, 32))
    assert (facts.model, facts.quantization, facts.dtype) == ("models/awq64", "awq", "bfloat16")
    assert (facts.device, facts.tensor_parallel, facts.eager) == ("cpu", 1, True)
    assert facts.kernels == ["CPUWNA16LinearKernel"]
    assert (facts.kv_tokens, facts.concurrency, facts.concurrency_context) == (46592, 91.0, 512)
    assert (facts.began, facts.loaded, facts.complete) == (True, True, True)
    assert (facts.traffic.best_generation, facts.traffic.last_generation) == (37.3, 0.0)
    assert facts.requests == (LOGS / "healthy_serve.txt").read_text().count("POST /v1/comp")
    assert facts.bytes == (LOGS / "healthy_serve.txt").stat().st_size
    assert facts.lines == (LOGS / "healthy_serve.txt").read_bytes().count(b"\n")
    assert [name.split()[0] for name in facts.processes] == [
        "APIServer", "EngineCore", "VllmWorker-0", "Worker",
    ]  # fmt: skip


def test_evidence_names_the_line_that_contains_its_text():
    for name in NAMES:
        lines = (LOGS / name).read_bytes().decode().split("\n")
        for finding in read_log(LOGS / name).findings:
            for evidence in finding.evidence:
                file, _, number = evidence.where.partition(":")
                if number:
                    assert file == name
                    assert evidence.text.removesuffix("...") in lines[int(number) - 1]


def test_a_consequence_is_a_note_if_its_cause_is_known():
    line = "RuntimeError: Engine core initialization failed. See root cause above.\n"
    assert ids(read(line)) == {"engine-failed": "error"}
    assert ids(read("OSError: [Errno 28] No space left on device\n" + line)) == {
        "disk-full": "error",
        "engine-failed": "note",
    }


CRASH = "Traceback (most recent call last):\nZeroDivisionError: division by zero\n"


def test_an_unknown_exception_comes_before_its_consequences():
    findings = read(CRASH + "RuntimeError: Engine core initialization failed.\n").findings
    assert [(f.id, f.level) for f in findings] == [
        ("unknown-error", "error"),
        ("engine-failed", "note"),
    ]
    assert findings[0].title == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("line", [
    "INFO:     Application startup complete.\n",
    'INFO:     127.0.0.1:5 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error\n',
])  # fmt: skip
def test_a_crash_is_an_error_wherever_it_stands(line):
    for text in (line + CRASH, CRASH + line):
        assert ids(read(text)) == {"unknown-error": "error"}


def test_an_error_of_eight_workers_is_one_finding_with_count_eight():
    line = (
        "(Worker_TP{} pid=1) ERROR 11-21 01:29:24 [multiproc_executor.py:953] "
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB. GPU {} has a "
        "total capacity of 23.64 GiB of which 583.31 MiB is free.\n"
    )
    findings = read("".join(line.format(i, i) for i in range(8))).findings
    assert [(f.id, f.count, len(f.evidence)) for f in findings] == [("out-of-memory", 8, 3)]
    assert "896.00 MiB" in findings[0].title
    assert "583.31 MiB" in findings[0].why


def test_a_repeated_line_is_counted_and_shown_three_times():
    line = "WARNING 11-21 01:25:05 [model.py:2498] Casting torch.float16 to torch.bfloat16.\n"
    (finding,) = read(line * 100_000).findings
    assert (finding.count, len(finding.evidence)) == (100_000, 3)


def test_progress_is_in_bytes():
    reported = []
    read_log(LOGS / "float32.txt", progress=Progress(lambda *step: reported.append(step)))
    size = (LOGS / "float32.txt").stat().st_size
    assert reported == [(size, size, "reading float32.txt", "")]


def test_a_log_is_read_from_standard_input(monkeypatch):
    data = (LOGS / "float32.txt").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert read_log("-").findings[0].evidence[0].where.startswith("stdin:")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b"\x7fELF\x02\x01\x01" + bytes(5000), "is not text"),
        (random.Random(3).randbytes(50_000), "is not text"),
        (b"\x1f\x8b\x08\x00" + bytes(range(256)), "is compressed"),
    ],
)
def test_a_file_that_is_not_a_log_is_refused(tmp_path, data, text):
    path = tmp_path / "a.log"
    path.write_bytes(data)
    with pytest.raises(RequestError, match=text):
        read_log(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_log_that_powershell_redirected_is_read(encoding):
    text = "OSError: [Errno 28] No space left on device\r\n"
    bom = "\ufeff" if encoding == "utf-16-be" else ""
    assert ids(read((bom + text).encode(encoding))) == {"disk-full": "error"}


def test_holes_of_a_truncated_log_do_not_make_it_binary():
    """A log truncated by copytruncate begins with NUL bytes."""
    text = b"OSError: [Errno 28] No space left on device\n"
    assert ids(read(bytes(50_000) + b"\n" + text)) == {"disk-full": "error"}


def test_a_missing_file_a_folder_and_a_locked_file_are_refused(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match="There is no file"):
        read_log(tmp_path / "none.log")
    with pytest.raises(RequestError, match="is a folder"):
        read_log(tmp_path)
    with pytest.raises(RequestError, match="cannot be read"):
        read_log(tmp_path / "a\0b")

    def locked(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(log_reader, "open_input", locked)
    with pytest.raises(RequestError, match="Permission denied"):
        read_log(LOGS / "float32.txt")


def damaged(data: bytes, numbers: random.Random) -> bytes:
    """A log cut anywhere, with flipped bytes, joined lines, lines without end, strange bytes."""
    data = data[numbers.randrange(len(data)) :] if numbers.random() < 0.5 else data
    data = data[: numbers.randrange(len(data) + 1)]
    out = bytearray(data)
    for _ in range(numbers.randrange(60)):
        if not out:
            break
        at = numbers.randrange(len(out))
        change = numbers.randrange(5)
        if change == 0:
            out[at] = numbers.randrange(256)
        elif change == 1:
            out[at : at + 1] = numbers.randbytes(numbers.randrange(40))
        elif change == 2:
            out = bytearray(bytes(out).replace(b"\n", b"", numbers.randrange(9)))
        elif change == 3:
            digits = "".join(numbers.choices("0123456789,.", k=numbers.randrange(400)))
            out[at:at] = digits.encode()
        else:
            out[at:at] = bytes([numbers.randrange(256)]) * numbers.randrange(20_000)
    return bytes(out)


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_log_is_read_or_refused(seed):
    numbers = random.Random(seed)
    data = damaged((LOGS / numbers.choice(NAMES)).read_bytes(), numbers)
    try:
        reading = read(data)
    except RequestError:
        return
    assert reading.facts.bytes == len(data)
    for finding in reading.findings:
        assert finding.level in LEVELS
        assert finding.certainty in CERTAINTIES
        assert finding.count >= len(finding.evidence)


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes_around_anchors_raise_nothing(seed):
    """Words in place of numbers and numbers in place of words."""
    numbers = random.Random(seed)
    parts = [*ANCHORS, *(row.anchor for row in SIGNATURES), *(row.example for row in SIGNATURES)]
    lines = []
    for _ in range(200):
        word = bytearray(numbers.choice(parts), "utf-8")
        for _ in range(numbers.randrange(4)):
            at = numbers.randrange(len(word))
            word[at : at + numbers.randrange(3)] = numbers.choice(
                [b"9" * 5000, b"", b"{", b"%s", b"-", b"1e999", b"'", "é".encode(), b"None"]
            )
        lines.append(bytes(word))
    assert read(b"\n".join(lines)).facts.bytes


def test_following_yields_each_finding_once(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("INFO 11-21 01:25:22 [a.py:1] Casting torch.float16 to torch.bfloat16.\n")
    reported = follow(path, poll_s=0.01, idle_s=20)
    assert next(reported).id == "dtype-cast"
    with path.open("a") as log:
        log.write("OSError: [Errno 28] No space left")
        log.flush()
        threading.Timer(0.1, lambda: (log.write(" on device\n"), log.flush())).start()
        assert next(reported).id == "disk-full"
        log.write("OSError: [Errno 28] No space left on device\n")
        log.write("ImportError: libcuda.so.1: cannot open shared object file: No such file\n")
        log.flush()
        assert next(reported).id == "libcuda-missing"
    reported.close()


def test_following_ends_after_the_idle_time_with_the_last_line(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("OSError: [Errno 28] No space left on device")
    started = time.monotonic()
    assert [f.id for f in follow(path, poll_s=0.01, idle_s=0.05)] == ["disk-full"]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("how", ["cut short", "replaced"])
def test_following_survives_a_rotation(tmp_path, how):
    path = tmp_path / "a.log"
    path.write_text("INFO 11-21 01:25:22 [a.py:1] Casting torch.float16 to torch.bfloat16.\n")
    reported = follow(path, poll_s=0.01, idle_s=20)
    assert next(reported).id == "dtype-cast"
    if how == "replaced":
        os.rename(path, tmp_path / "a.log.1")
    path.write_text("OSError: [Errno 28] No space left on device\n")
    finding = next(reported)
    assert (finding.id, finding.evidence[0].where) == ("disk-full", "a.log:1")
    reported.close()


def test_following_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(RequestError, match="There is no file"):
        next(follow(tmp_path / "none.log"))
