"""The structure of failures, in the forms in which people bring them; no signature knows any."""

import io
import json

import pytest

from salient.diagnose.log.line_prefix import read_lines
from salient.diagnose.log.log_reader import LogReading, read_stream
from salient.diagnose.log.root_cause import RootCause, find_root
from salient.diagnose.log.structure import CONTEXT_ANCHORS, StructureReader

TRACEBACK = """Traceback (most recent call last):
  File "/opt/venv/lib/python3.12/site-packages/vllm/worker.py", line 12, in load
    self.model = build(shape)
                 ^^^^^^^^^^^^
  File "/opt/venv/lib/python3.12/site-packages/vllm/layers/odd.py", line 34, in build
    return torch.frobnicate(shape)
  File "/opt/venv/lib/python3.12/site-packages/torch/_ops.py", line 56, in frobnicate
    raise Quux(shape)
vllm.odd.Quux: the shape (3, 5) is odd"""
LABEL = "vllm.odd.Quux: the shape (3, 5) is odd"


def find(text: str) -> RootCause | None:
    reader = StructureReader()
    for number, raw in enumerate(text.encode().split(b"\n"), start=1):
        for line in read_lines(raw):
            reader.take(number, line)
    return find_root(reader.failures, served_after=None, ended_at=None)


def root(text: str) -> RootCause:
    cause = find(text)
    assert cause
    return cause


def label(text: str) -> str:
    cause = find(text)
    return cause.label() if cause else ""


def read(text: str) -> LogReading:
    return read_stream(io.BytesIO(text.encode()), "a.log", size=None)


def prefixed(prefix: str) -> str:
    return "\n".join(prefix + line for line in TRACEBACK.split("\n"))


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "    ",
        "> ",
        "vllm-1  | ",
        "ERROR 05-01 12:00:00 [core.py:12] ",
        "ERROR 05-01 12:00:00 engine.py:389] ",
        "(EngineCore_DP0 pid=12) ERROR 05-01 12:00:00 [v1/engine/core.py:12] ",
        "\x1b[1;36m(Worker_TP1 pid=9)\x1b[0;0m ERROR 05-01 12:00:00 [multiproc_executor.py:8] ",
        "(EngineCore_0 pid=3) (RayWorkerWrapper pid=9, ip=10.0.0.2) ",
        "\x1b[36m(RayWorkerWrapper pid=9)\x1b[0m ",
        "[rank3]: ",
        "[default0]:",
        "2026-05-01T12:00:00.123456789Z stderr F ",
        "2026-05-01T12:00:00.123Z ",
        "2025-03-08 02:04:48,694 - __main__ - INFO - ",
        "Aug 19 18:34:30 node-7 vllm[8707]: (APIServer pid=8707) ",
        "2026-05-01T12:00:00+0200 node-7 vllm[8707]: ",
        "[pod/vllm-6c9f/vllm] ",
        "2026-05-01 12:00:00.123 | ERROR    | vllm.worker:load:12 - ",
        "2024-05-07T12:39:20.298136Z ERROR shard-manager: text_generation_launcher: ",
    ],
)
def test_a_traceback_is_read_behind_any_prefix(prefix):
    for text in (prefixed(prefix), prefixed(prefix).replace("\n", "\r\n")):
        cause = root(text)
        assert cause.label() == LABEL
        assert [(f.line, f.function) for f in cause.frames()] == [(12, "load"), (34, "build")]
    assert read(prefixed(prefix)).findings[0].title == LABEL


@pytest.mark.parametrize("cut", range(len(TRACEBACK.split("\n"))))
def test_the_last_lines_of_a_traceback_are_enough(cut):
    assert label("\n".join(TRACEBACK.split("\n")[cut:])) == LABEL


def test_a_traceback_without_its_last_line_is_a_failure_of_unknown_name():
    cause = root("\n".join(TRACEBACK.split("\n")[:-1]))
    assert cause.kind == "cut"
    assert [f.function for f in cause.frames()] == ["load", "build"]
    assert read(TRACEBACK[:-40]).findings[0].id == "unknown-error"


@pytest.mark.parametrize("key", ["log", "message", "msg", "textPayload"])
def test_a_traceback_in_json_is_read_line_by_line_or_whole(key):
    lines = "\n".join(json.dumps({key: line + "\n"}) for line in TRACEBACK.split("\n"))
    whole = json.dumps({key: TRACEBACK, "severity": "ERROR"})
    nested = json.dumps({"level": "ERROR", "fields": {"message": TRACEBACK}})
    assert label(lines) == label(whole) == label(nested) == LABEL


def test_tracebacks_of_interleaved_processes_do_not_mix():
    ranks = [prefixed(f"(Worker_TP{rank} pid={rank}) ").split("\n") for rank in range(3)]
    text = "\n".join(line for lines in zip(*ranks, strict=True) for line in lines)
    cause = root(text)
    assert (cause.label(), cause.cause.process) == (LABEL, "Worker_TP0 pid=0")
    assert [f.function for f in cause.frames()] == ["load", "build"]
    assert cause.echoes == 2


JUPYTER = """\
---------------------------------------------------------------------------
Quux                                      Traceback (most recent call last)
Cell In[3], line 1
----> 1 llm = LLM(model="m")

File /usr/local/lib/python3.10/dist-packages/vllm/entrypoints/llm.py:155, in LLM.__init__(self, m)
    153 engine_args = EngineArgs(
--> 155 self.llm_engine = LLMEngine.from_engine_args(

File /usr/local/lib/python3.10/dist-packages/torch/cuda/__init__.py:302, in _lazy_init()
--> 302     torch._C._cuda_init()

Quux: the shape (3, 5) is odd"""
RICH = """\
╭───────────────────── Traceback (most recent call last) ──────────────────────╮
│ /opt/conda/lib/python3.10/site-packages/text_generation_server/cli.py:116 in │
│ serve                                                                        │
│                                                                              │
│ /opt/conda/lib/python3.10/site-packages/text_generation_server/awq.py:55 in load │
│ ❱ 55         raise Quux(shape)                                               │
╰──────────────────────────────────────────────────────────────────────────────╯
Quux: the shape (3, 5) is odd"""
RAY = """\
Traceback (most recent call last):
  File "/opt/venv/lib/python3.12/site-packages/vllm/executor/ray_executor.py", line 8, in run
    ray.get(outputs)
ray.exceptions.RayTaskError(Quux): ray::RayWorkerWrapper.execute_method() (pid=9, ip=10.0.0.2)
  File "/opt/venv/lib/python3.12/site-packages/vllm/layers/odd.py", line 34, in build
    raise Quux(shape)
Quux: the shape (3, 5) is odd"""
GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "/opt/venv/lib/python3.12/site-packages/vllm/api.py", line 3, in serve
  |     async with group:
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/opt/venv/lib/python3.12/site-packages/vllm/layers/odd.py", line 34, in build
    |     raise Quux(shape)
    | Quux: the shape (3, 5) is odd
    +------------------------------------"""
SCHEDULER = """\
[2026-02-26 08:01:02 TP0] Scheduler hit an exception: Traceback (most recent call last):
  File "/sgl-workspace/sglang/python/sglang/srt/layers/odd.py", line 34, in build
    raise Quux(shape)
Quux: the shape (3, 5) is odd

[2026-02-26 08:01:02] Received sigquit from a child process. It usually means the child failed.
Killed"""


@pytest.mark.parametrize("text", [JUPYTER, RICH, RAY, GROUP, SCHEDULER])
def test_a_traceback_is_read_in_the_form_of_other_programs(text):
    assert label(text) == "Quux: the shape (3, 5) is odd"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Exception: nothing left", "Exception: nothing left"),
        ("triton.runtime.errors.OutOfResources: out of resource", None),
        ("torch.OutOfMemoryError: no room", None),
        ("torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:", None),
        ("subprocess.TimeoutExpired: Command '['nvcc']' timed out", None),
        ("RuntimeError('odd shape')", "RuntimeError: odd shape"),
        ('ValueError("type fp8e4nv not supported")', "ValueError: type fp8e4nv not supported"),
        ("ERROR:root:RuntimeError('odd shape')", "RuntimeError: odd shape"),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error", None),
        ("socket.gaierror: [Errno -2] Name or service not known", None),
        ("ERROR 05-01 12:00:00 [a.py:1] Uncaught exception: KeyError: 'x'", "KeyError: 'x'"),
        (
            "RuntimeError: Worker failed with error 'odd shape', please check the trace",
            "odd shape",
        ),
    ],
)
def test_an_exception_of_any_class_is_read_alone(line, expected):
    assert label(line) == (expected or line)


def test_an_assertion_without_text_shows_its_code():
    text = (
        'Traceback (most recent call last):\n  File "/a.py", line 1, in f\n    assert n % 8 == 0\n'
    )
    assert label(text + "AssertionError") == "AssertionError: assert n % 8 == 0"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("Segmentation fault (core dumped)", "crashed"),
        ("Fatal Python error: Segmentation fault", "crashed"),
        ("!!!!!!! Segfault encountered !!!!!!!", "crashed"),
        ("./run.sh: line 3: 4711 Aborted                 (core dumped) vllm serve m", "crashed"),
        ("zsh: abort      ./llama-server -m a.gguf", "crashed"),
        ("llama-sampler.cpp:1094: void apply(): Assertion `found' failed.", "crashed"),
        ("[Inferior 1 (process 24816) detached]", "crashed"),
        ("vllm.service: Main process exited, code=dumped, status=6/ABRT", "crashed"),
        ("Process finished with exit code 139", "crashed"),
        ("Killed", "killed"),
        ("./run.sh: line 19: 867080 Killed        python -m sglang.launch_server", "killed"),
        ("vllm-1 exited with code 137", "killed"),
        ("State: Terminated, Reason: OOMKilled, Exit Code: 137", "killed"),
        ("vllm.service: Main process exited, code=killed, status=9/KILL", "killed"),
        ("vllm: error: unrecognized arguments: --quantisation awq", "usage"),
        ("api_server.py: error: argument --dtype: invalid choice: 'fp4'", "usage"),
        ("error: unexpected argument '--quantise' found", "usage"),
        ("error: invalid argument: --n-gpu-layer", "usage"),
        ("unknown flag: --gpu", "usage"),
        ("bash: vllm: command not found", "native"),
        ("/usr/bin/python3: No module named vllm", "native"),
        ("docker: Error response from daemon: could not select device driver", "native"),
        ("terminate called after throwing an instance of 'c10::Error'\n  what():  odd", "native"),
        ("panic: runtime error: invalid memory address", "native"),
        ("thread 'main' panicked at router/src/main.rs:12:5:\nodd shape", "native"),
        ("llama_model_load: error loading model: unknown model architecture: 'odd'", "native"),
        ("GGML_ASSERT(ne % 32 == 0) failed", "native"),
        ("ROCm error: unspecified launch failure", "native"),
        ("CUDA error: an unheard-of error", "native"),
        ("Error: ShardCannotStart", "native"),
        (
            'time=2024-04-25T18:30:30Z level=ERROR source=routes.go:120 msg="error loading llama '
            'server" error="llama runner process no longer running: -1"',
            "logged",
        ),
        ("(EngineCore pid=3) ERROR 05-01 12:00:00 [a.py:1] EngineCore failed to start.", "fatal"),
        ("[2026-02-26 08:01:02] Received sigquit from a child process.", "fatal"),
        ("vllm-1 exited with code 1", "fatal"),
        ("Back-off restarting failed container vllm in pod vllm-6c9f", "fatal"),
    ],
)  # fmt: skip
def test_a_crash_that_is_no_exception_is_read(line, kind):
    cause = root(line)
    assert cause.kind == kind
    assert read("INFO:     Application startup complete.\n" + line).findings


def test_the_message_of_a_native_error_is_on_its_next_line():
    text = "terminate called after throwing an instance of 'c10::Error'\n  what():  odd shape"
    assert label(text) == "c10::Error: odd shape"
    assert label("thread 'main' panicked at src/main.rs:12:5:\nodd shape").endswith("odd shape")


def chained(link: str, first: str, second: str) -> str:
    frame = 'Traceback (most recent call last):\n  File "/a/vllm/b.py", line 1, in f\n    g()\n'
    return f"{frame}{first}\n\n{link}:\n\n{frame}{second}"


CAUSE = "The above exception was the direct cause of the following exception"
CONTEXT = "During handling of the above exception, another exception occurred"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (chained(CAUSE, "OSError: no disk", "RuntimeError: not loaded"), "OSError: no disk"),
        (chained(CONTEXT, "OSError: no disk", "RuntimeError: not loaded"), "OSError: no disk"),
        (chained(CONTEXT, "KeyError: 'odd'", "ValueError: unknown type odd"),
         "ValueError: unknown type odd"),
        (chained(CAUSE, "KeyError: 'odd'", "ValueError: unknown type odd"), "KeyError: 'odd'"),
        (chained(CAUSE, "ValueError: odd", "RuntimeError: Engine core initialization failed."),
         "ValueError: odd"),
        ("torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:\n"
         "CalledProcessError: gcc returned 1", "CalledProcessError: gcc returned 1"),
        ("(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause.\n"
         "(EngineCore pid=2) ERROR 05-01 12:00:00 [core.py:1] ValueError: odd", "ValueError: odd"),
        ("BrokenPipeError: [Errno 32] Broken pipe\nValueError: odd", "ValueError: odd"),
        ("WARNING 05-01 12:00:00 [a.py:1] ImportError: none\nValueError: odd", "ValueError: odd"),
        ("KeyboardInterrupt\n", ""),
        ("asyncio.exceptions.CancelledError: task\n", ""),
    ],
)  # fmt: skip
def test_the_root_is_the_first_failure_that_is_no_echo(text, expected):
    assert label(text) == expected


def test_the_finding_has_context_and_a_search_in_the_tracker_of_the_package():
    (finding,) = read(prefixed("(Worker_TP1 pid=9) ")).findings
    assert (finding.id, finding.title, finding.evidence[0].where) == (
        "unknown-error", LABEL, "a.log:9",
    )  # fmt: skip
    assert "In Worker_TP1 pid=9, vllm." in finding.why
    assert "vllm/worker.py:12 load; vllm/layers/odd.py:34 build" in finding.why
    assert "https://github.com/vllm-project/vllm/issues?q=is%3Aissue+vllm.odd.Quux" in finding.do[0]


@pytest.mark.parametrize("anchor", CONTEXT_ANCHORS)
def test_no_anchor_of_a_failure_is_part_of_another(anchor):
    assert not [one for one in CONTEXT_ANCHORS if anchor in one and one != anchor]


READY = "INFO:     Application startup complete.\n"
ANSWER = 'INFO:     127.0.0.1:5 - "POST /v1/completions HTTP/1.1" 200 OK\n'
LOGGED = "ERROR 05-01 12:00:00 [a.py:1] Cannot use the odd kernel here.\n"


def test_a_reported_error_matters_unless_the_server_answers_after_it():
    assert read(LOGGED + READY).findings == []
    assert [f.level for f in read(READY + LOGGED).findings] == ["warning"]
    assert read(READY + LOGGED + ANSWER).findings == []


def test_a_crash_is_an_error_even_if_the_server_answers_after_it():
    for text in (TRACEBACK + "\n" + READY, READY + TRACEBACK + "\n" + ANSWER):
        (finding,) = read(text).findings
        assert (finding.level, finding.certainty) == ("error", "possible")


def test_processes_that_end_with_a_stopped_server_have_not_failed():
    stop = "INFO 05-01 12:00:01 [launcher.py:1] [shutdown] API server: stopping\n"
    echo = "ERROR 05-01 12:00:02 [a.py:1] vllm.v1.engine.exceptions.EngineDeadError: EngineCore \
encountered an issue. See stack trace (above) for the root cause.\n"
    assert [f.level for f in read(READY + stop + echo).findings] == ["note"]
    assert [f.level for f in read(READY + echo + stop).findings] == ["error"]
