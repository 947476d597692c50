"""vLLM as a child: its log, its end, signals, and nothing left behind."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from helpers.rtn_checkpoints import rounded_toy
from helpers.vllm_process import LOGS, VllmRun, alive, gone, stand_in
from salient.serve.options import ServeOptions

SLOW = (
    "(Worker pid=1) WARNING 11-21 01:38:10 [auto_awq.py:325] Layer "
    "'model.layers.0.mlp.down_proj' is not supported by AutoAWQMarlin. Falling back to "
    "unoptimized AWQ kernels.\n"
)
ENGINE_DEAD = (
    "(APIServer pid=9) WARNING 11-29 21:18:25 [core_client.py:817] [shutdown] MPClient: engine "
    "core exited unexpectedly; starting cleanup\n"
    "(APIServer pid=9) ERROR 11-29 21:18:25 [async_llm.py:906] "
    "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace "
    "(above) for the root cause.\n"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return rounded_toy(tmp_path_factory.mktemp("rounded"))


@pytest.fixture
def served(checkpoint, tmp_path):
    """Starts run_vllm with the stand-in; what is left of it is ended."""
    stand_in(tmp_path)
    started = []

    def start(**how) -> VllmRun:
        changes = {"port": free_port(), "vllm_python": sys.executable, **how.pop("request", {})}
        started.append(VllmRun(tmp_path, ServeOptions(str(checkpoint), **changes), **how))
        return started[-1]

    yield start
    for run in started:
        run.process.kill()
        run.process.wait()
        for pid in (run.record.get("pid"), run.record.get("engine")):
            if pid and alive(pid):
                os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_kernel_and_the_address_are_named_and_the_log_passes(served):
    log = LOGS / "healthy_cpu.txt"
    run = served(log=str(log))
    run.wait_for("Ready: http://127.0.0.1:")
    assert "vLLM runs the quantized weights through CPUWNA16LinearKernel." in run.lines
    assert run.lines.index("CPUWNA16") < run.lines.index("Ready: ")
    assert run.end() == 0
    text = log.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # of progress bars
    assert run.log == text + b"Application shutdown complete.\n"
    assert "vLLM ended after SIGINT (exit code 0)." in run.lines


def test_a_slow_kernel_is_explained_at_once(served, tmp_path):
    (tmp_path / "slow.txt").write_text(SLOW)
    run = served(log=str(tmp_path / "slow.txt"))
    run.wait_for("Ready: ")
    assert "SLOW: Marlin cannot run model.layers.0.mlp.down_proj" in run.lines
    assert "do: Lower --tensor-parallel-size" in run.lines
    assert run.lines.count("SLOW: ") == 1


def test_a_log_without_a_kernel_gives_a_line(served):
    run = served()
    run.wait_for("Ready: ")
    assert "vLLM's log names no kernel for the quantized weights." in run.lines


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_forwarded_once_and_a_hangup_as_sigterm(served, name):
    run = served()
    run.wait_for("Ready: ")
    assert run.end(getattr(signal, name)) == 0
    handed = signal.SIGTERM if name == "SIGHUP" else getattr(signal, name)
    assert run.record["signal"] == handed
    assert "Signal forwarded; vLLM is ending. A second signal kills it." in run.lines
    assert f"vLLM ended after {name} (exit code 0)." in run.lines


def test_a_second_signal_kills_the_session(served):
    run = served(end="stubborn", child=True)
    run.wait_for("Ready: ")
    run.process.send_signal(signal.SIGINT)
    run.wait_for("A second signal kills it.")
    assert run.end() == 128 + signal.SIGKILL
    assert "vLLM was killed (exit code 137): a second signal came." in run.lines
    assert gone(run.record["pid"])
    assert gone(run.record["engine"])


def test_a_killed_child_is_reported_and_leaves_no_engine_behind(served):
    run = served(child=True, log=str(LOGS / "healthy_cpu.txt"))
    run.wait_for("Ready: ")
    os.kill(run.record["pid"], signal.SIGKILL)
    assert run.process.wait(60) == 137
    assert "vLLM was killed by SIGKILL (exit code 137), and not by Salient." in run.lines
    assert "memory runs out" in run.lines
    assert "It left 1 process behind; they were ended." in run.lines
    assert gone(run.record["engine"])


def test_when_we_are_killed_the_child_and_its_engine_end(served):
    run = served(child=True)
    run.wait_for("Ready: ")
    run.process.kill()
    run.process.wait()
    assert gone(run.record["pid"])
    assert gone(run.record["engine"])


def test_a_failed_start_gives_its_exit_code_cause_and_fix(served):
    run = served(log=str(LOGS / "wrong_group_size.txt"), end="exit", code=3)
    assert run.process.wait(60) == 3
    assert "vLLM did not start (exit code 3)." in run.lines
    assert "ERROR: A tensor has another shape than config.json says" in run.lines
    assert "do: " in run.lines
    assert "vLLM's log:" in run.lines


def test_an_engine_that_died_is_a_failure_though_vllm_ends_with_0(served, tmp_path):
    """What vLLM 0.32 prints when its engine is killed; its exit code is 0 then."""
    (tmp_path / "dead.txt").write_text(ENGINE_DEAD)
    run = served(log=str(tmp_path / "dead.txt"), end="exit", code=0)
    assert run.process.wait(60) == 1
    assert "ERROR: The engine died while serving" in run.lines


def test_an_unknown_failure_is_reported_as_unknown(served):
    run = served(end="exit", code=7)
    assert run.process.wait(60) == 7
    assert "Salient knows no line of its log as a cause: see its last lines." in run.lines


def test_a_crash_is_explained_by_its_signal(served):
    run = served(end="kill", code=int(signal.SIGBUS))
    assert run.process.wait(60) == 128 + signal.SIGBUS
    assert "vLLM crashed with SIGBUS" in run.lines
    assert "--ipc=host" in run.lines


def test_an_endless_binary_line_passes_and_takes_no_memory(served):
    run = served(end="stream")
    while run.files[1].stat().st_size < 10_000_000:
        assert run.process.poll() is None
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0])
    assert peak < 250_000  # kB
    assert run.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert rb"\u0000\xff\u001b[2Jx" in run.log[:100]


def test_the_arguments_reach_vllm_and_the_key_is_in_no_command_line(served):
    request = {
        "api_key": "s3cret",
        "context_length": 48,
        "vllm_args": ("--enforce-eager", "--dtype=float32"),
    }
    run = served(request=request)
    run.wait_for("Ready: ")
    argv = run.record["argv"]
    assert argv[0] == "--model"
    assert argv[-2:] == ["--enforce-eager", "--dtype=float32"]
    assert argv[argv.index("--max-model-len") + 1] == "48"
    assert "--dtype" not in argv
    assert run.record["key"] == "s3cret"
    assert run.record["cache"] == "1"
    assert "s3cret" not in run.lines + " ".join(argv) + run.log.decode()
    assert run.record["path"].split(os.pathsep)[0] == os.path.dirname(sys.executable)


def test_a_port_in_use_is_refused_before_vllm_starts(served):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        run = served(request={"port": holder.getsockname()[1]})
        assert run.process.wait(60) == 2
    assert "refused: Cannot listen on 127.0.0.1:" in run.lines
    assert "vLLM was not started." in run.lines
    assert not run.record
