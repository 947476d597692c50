"""vLLM as a child: its log, its end, signals, and nothing left behind."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from helpers.rtn_checkpoints import rounded_toy
from helpers.vllm_process import LOGS, Served, alive, gone, stand_in
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

    def start(**how) -> Served:
        changes = {"port": free_port(), "vllm_python": sys.executable, **how.pop("request", {})}
        started.append(Served(tmp_path, ServeOptions(str(checkpoint), **changes), **how))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        for pid in (one.told.get("pid"), one.told.get("engine")):
            if pid and alive(pid):
                os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_kernel_and_the_address_are_named_and_the_log_passes_unchanged(served):
    log = LOGS / "healthy_cpu.txt"
    one = served(log=str(log))
    one.wait_for("Ready: http://127.0.0.1:")
    assert "vLLM runs the quantized weights through CPUWNA16LinearKernel." in one.said
    assert one.said.index("CPUWNA16") < one.said.index("Ready: ")
    assert one.end() == 0
    assert one.log == log.read_bytes() + b"Application shutdown complete.\n"
    assert "vLLM ended after SIGINT (exit code 0)." in one.said


def test_a_slow_kernel_is_told_in_words_when_it_is_chosen(served, tmp_path):
    (tmp_path / "slow.txt").write_text(SLOW)
    one = served(log=str(tmp_path / "slow.txt"))
    one.wait_for("Ready: ")
    assert "SLOW: Marlin cannot run model.layers.0.mlp.down_proj" in one.said
    assert "do: Lower --tensor-parallel-size" in one.said
    assert one.said.count("SLOW: ") == 1


def test_a_log_that_names_no_kernel_is_said_to(served):
    one = served()
    one.wait_for("Ready: ")
    assert "vLLM's log names no kernel for the quantized weights." in one.said


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_handed_on_once_and_a_hangup_as_the_word_that_vllm_knows(served, name):
    one = served()
    one.wait_for("Ready: ")
    assert one.end(getattr(signal, name)) == 0
    handed = signal.SIGTERM if name == "SIGHUP" else getattr(signal, name)
    assert one.told["signal"] == handed
    assert "Handed on; vLLM is ending. A second signal kills it." in one.said
    assert f"vLLM ended after {name} (exit code 0)." in one.said


def test_a_second_signal_kills_what_does_not_end(served):
    one = served(end="stubborn", child=True)
    one.wait_for("Ready: ")
    one.process.send_signal(signal.SIGINT)
    one.wait_for("A second signal kills it.")
    assert one.end() == 128 + signal.SIGKILL
    assert "vLLM was killed (exit code 137): a second signal came." in one.said
    assert gone(one.told["pid"])
    assert gone(one.told["engine"])


def test_a_killed_child_is_reported_in_words_and_leaves_no_engine_behind(served):
    one = served(child=True, log=str(LOGS / "healthy_cpu.txt"))
    one.wait_for("Ready: ")
    os.kill(one.told["pid"], signal.SIGKILL)
    assert one.process.wait(60) == 137
    assert "vLLM was killed by SIGKILL (exit code 137), and not by Salient." in one.said
    assert "want of memory" in one.said
    assert "It left 1 process behind; they were ended." in one.said
    assert gone(one.told["engine"])


def test_when_we_are_killed_the_child_and_its_engine_end(served):
    one = served(child=True)
    one.wait_for("Ready: ")
    one.process.kill()
    one.process.wait()
    assert gone(one.told["pid"])
    assert gone(one.told["engine"])


def test_a_failed_start_gives_its_exit_code_the_cause_and_the_mend(served):
    one = served(log=str(LOGS / "wrong_group_size.txt"), end="exit", code=3)
    assert one.process.wait(60) == 3
    assert "vLLM did not start (exit code 3)." in one.said
    assert "ERROR: A tensor has another shape than config.json says" in one.said
    assert "do: " in one.said
    assert "vLLM's log:" in one.said


def test_an_engine_that_died_is_a_failure_though_vllm_ends_with_0(served, tmp_path):
    """What vLLM 0.32 prints when its engine is killed; its exit code is 0 then."""
    (tmp_path / "dead.txt").write_text(ENGINE_DEAD)
    one = served(log=str(tmp_path / "dead.txt"), end="exit", code=0)
    assert one.process.wait(60) == 1
    assert "ERROR: The engine died while it served" in one.said


def test_a_failure_that_nobody_knows_is_said_to_be_one(served):
    one = served(end="exit", code=7)
    assert one.process.wait(60) == 7
    assert "Its log has no line whose cause is known here: read its last lines." in one.said


def test_a_crash_is_told_by_its_signal(served):
    one = served(end="kill", code=int(signal.SIGBUS))
    assert one.process.wait(60) == 128 + signal.SIGBUS
    assert "vLLM crashed with SIGBUS" in one.said
    assert "--ipc=host" in one.said


def test_an_endless_binary_line_is_passed_on_and_takes_no_memory(served):
    one = served(end="stream")
    while one.files[1].stat().st_size < 50_000_000:
        assert one.process.poll() is None
    status = Path(f"/proc/{one.process.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0])
    assert peak < 250_000  # kB
    assert one.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert b"\x00\xff\x1b[2Jx" in one.log[:100]


def test_the_arguments_reach_vllm_and_the_key_stands_in_no_command_line(served):
    request = {
        "api_key": "s3cret",
        "context_length": 48,
        "vllm_args": ("--enforce-eager", "--dtype=float32"),
    }
    one = served(request=request)
    one.wait_for("Ready: ")
    argv = one.told["argv"]
    assert argv[0] == "--model"
    assert argv[-2:] == ["--enforce-eager", "--dtype=float32"]
    assert argv[argv.index("--max-model-len") + 1] == "48"
    assert "--dtype" not in argv
    assert one.told["key"] == "s3cret"
    assert one.told["cache"] == "1"
    assert "s3cret" not in one.said + " ".join(argv) + one.log.decode()
    assert one.told["path"].split(os.pathsep)[0] == os.path.dirname(sys.executable)


def test_a_port_in_use_is_refused_before_vllm_starts(served):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        one = served(request={"port": holder.getsockname()[1]})
        assert one.process.wait(60) == 2
    assert "refused: Cannot listen on 127.0.0.1:" in one.said
    assert "vLLM was not started." in one.said
    assert not one.told
