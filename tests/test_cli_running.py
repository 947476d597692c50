"""The commands that run checkpoints: what they print, where, and how they fail."""

import json
import signal
import sys
from pathlib import Path

import pytest
import torch

from helpers.cli import invoke
from helpers.commands import Command
from helpers.rtn_checkpoints import rounded_toy
from helpers.tolerance import coded_rounding
from helpers.toy_models import byte_tokenizer
from salient import api
from salient.runtime.bench.bench import LARGEST_KL

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4-bit checkpoint of a toy that chats; do not change it."""
    folder = rounded_toy(tmp_path_factory.mktemp("run"))
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def call(*arguments: object, typed: str | None = None):
    return invoke(*arguments, typed=typed or "")


def test_generate_prints_the_text_alone_and_the_same_each_time(checkpoint):
    options = ("generate", checkpoint, "-p", "Hello", "--max-new-tokens", 8)
    first, again = call(*options), call(*options)
    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout == again.stdout != "\n"
    shown = call(*options, "--json")
    assert json.loads(shown.stdout)["answers"][0]["text"] + "\n" == first.stdout


def test_generate_answers_several_prompts_as_it_answers_each(checkpoint):
    prompts = ("Hello", "What is it?", "def f(x):")
    sampled = ("--temperature", 0.9, "--seed", 3, "--max-new-tokens", 8, "--json")
    several = call("generate", checkpoint, *(w for p in prompts for w in ("-p", p)), *sampled)
    answers = json.loads(several.stdout)["answers"]
    for prompt, answer in zip(prompts, answers, strict=True):
        alone = json.loads(call("generate", checkpoint, "-p", prompt, *sampled).stdout)
        assert answer["prompt"] == prompt
        assert answer["tokens"] == alone["answers"][0]["tokens"]
    assert len({tuple(answer["tokens"]) for answer in answers}) == 3


def test_generate_reads_a_prompt_from_stdin(checkpoint):
    message = ("--max-new-tokens", 8)
    typed = call("generate", checkpoint, "-p", "-", *message, typed="Hello")
    assert typed.stdout == call("generate", checkpoint, "-p", "Hello", *message).stdout


def test_fusion_changes_no_word(checkpoint):
    message = ("generate", checkpoint, "-p", "Hello there", "--max-new-tokens", 12)
    assert call(*message).stdout == call(*message, "--no-fuse").stdout


@pytest.mark.parametrize(
    ("message", "reported"),
    [
        (("-p", ""), "has no tokens"),
        (("-p", "x" * 600), "the context is 512"),
        (("-p", "x", "--temperature", "-1"), "temperature=-1.0 cannot be used"),
        (("-p", "x", "--top-p", "0"), "top_p=0.0 cannot be used"),
        (("-p", "x", "--context-length", "4096"), "the model was made for 512"),
        (("-p", "x", "--kernel", "fast"), "Unknown kernel 'fast'"),
        (("-p", "x", "--device", "abacus"), "Device 'abacus' cannot be used"),
        (("-p", "x", "--dtype", "int8"), "Unknown dtype 'int8'"),
        (("-p", "x", "--compile", "maybe"), "compile='maybe'"),
        (("-p", "x", "--max-new-tokens", "0"), "max_new_tokens=0 cannot be used"),
    ],
)
def test_what_cannot_be_generated_is_an_error_with_a_message(checkpoint, message, reported):
    result = call("generate", checkpoint, *message)
    assert result.exit_code == 2
    assert reported in result.stderr
    assert result.stdout == ""


def test_inspect_runtime_names_kernel_and_fusion(checkpoint):
    report = json.loads(call("inspect", checkpoint, "--runtime", "--json").stdout)
    assert report["kernels"][0]["linears"] > 0
    assert report["fused"]
    assert report["proof_error"] < coded_rounding()
    shown = call("inspect", checkpoint, "--runtime")
    assert (shown.exit_code, shown.stderr) == (0, "")
    for message in ("q, k, v", "rotary embedding", "run", report["kernels"][0]["kernel"]):
        assert message in shown.stdout


def test_bench_checks_kernels_times_them_and_names_the_winner(checkpoint, tmp_path):
    plot = tmp_path / "bench.png"
    sizes = ("--concurrency", "1,2", "--prompt-tokens", 16, "--max-new-tokens", 4)
    result = call("bench", checkpoint, *sizes, "--kernels", "auto,dense", "--plot", plot, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert [row["kernel"] for row in report["rows"]] == ["auto", "dense"]
    for row in report["rows"]:
        assert row["kl"] < LARGEST_KL[torch.float32]  # a dense product may be in bfloat16
        for batch in row["batches"]:
            times = batch["between_tokens_seconds"]
            assert 0 < times["p50"] <= times["p90"] <= times["p99"]
            assert batch["tokens_a_second"] > 0
    speeds = {row["kernel"]: row["batches"][0]["tokens_a_second"] for row in report["rows"]}
    won = report["winners"][0]
    assert won["kernel"] == max(speeds, key=lambda name: speeds[name])
    assert won["ratio"] == pytest.approx(max(speeds.values()) / min(speeds.values()))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [plot]


def test_bench_times_no_kernel_that_is_wrong(checkpoint, monkeypatch):
    from salient.kernels.dense import DenseWeight

    right = DenseWeight.forward
    monkeypatch.setattr(DenseWeight, "forward", lambda self, x: right(self, x).roll(1, -1))
    sizes = ("--concurrency", "1", "--prompt-tokens", 8, "--max-new-tokens", 2)
    report = json.loads(call("bench", checkpoint, *sizes, "--kernels", "dense", "--json").stdout)
    assert report["rows"][0]["refused"].startswith("wrong results: KL")
    assert report["rows"][0]["batches"] == report["winners"] == []


@pytest.mark.parametrize(
    ("message", "reported"),
    [
        (("--concurrency", "1,two"), "--concurrency '1,two' is not a list of numbers"),
        (("--concurrency", "0"), "--concurrency 0 is out of range: give at least 1"),
        (("--kernels", "fast"), "Unknown kernel 'fast'"),
        (("--plot", "figures.txt"), "figures.txt is not an image file"),
        (("--plot", "no/such/folder/a.png"), "The folder no/such/folder of a.png does not exist"),
    ],
)
def test_what_cannot_be_measured_is_an_error_with_a_message(checkpoint, message, reported):
    result = call("bench", checkpoint, *message)
    assert result.exit_code == 2
    assert reported in result.stderr.replace("\n", " ")


def test_a_plot_without_its_library_is_refused_before_the_work(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = call("bench", checkpoint, "--plot", "a.png")
    assert result.exit_code == 2
    assert "pip install 'salient-awq[plot]'" in result.stderr


def test_chat_answers_each_line_and_takes_commands(checkpoint):
    typed = "Hello\n/nothing\n/reset\nHello\n/exit\nnot read\n"
    message = ("--max-new-tokens", 6, "--temperature", 0)
    result = call("chat", checkpoint, *message, typed=typed)
    assert result.exit_code == 0
    first, again = result.stdout.split("\n")[:2]
    assert first == again  # after /reset the same is said to the same
    assert "Unknown command /nothing." in result.stderr
    assert result.stderr.count("tokens/s") == 2


def test_a_conversation_remembers_and_forgets_its_oldest_turns(checkpoint):
    talk = api.chat(str(checkpoint), max_new_tokens=4, temperature=0.0, context_length=96)
    for number in range(6):
        assert "".join(talk.send(f"number {number}")) == talk.messages[-1]["content"]
    assert talk.dropped_turns > 0
    assert talk.messages[-2]["content"] == "number 5"
    assert talk.answer.reused > 0 or talk.dropped_turns


def test_an_answer_that_is_left_early_stays_in_the_history(checkpoint):
    talk = api.chat(str(checkpoint), max_new_tokens=64, temperature=0.0)
    reported = talk.send("Hello")
    pieces = [next(reported) for _ in range(3)]
    reported.close()
    assert talk.answer.finished == "cancelled"
    assert talk.messages[-1]["content"].startswith("".join(pieces))
    assert not talk.opened.engine.busy


def test_a_message_that_fits_no_context_is_refused_and_forgotten(checkpoint):
    talk = api.chat(str(checkpoint), max_new_tokens=4, context_length=64)
    with pytest.raises(Exception, match="Shorten it"):
        list(talk.send("x" * 200))
    assert talk.messages == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_stops_the_answer_and_not_the_chat(checkpoint):
    message = ("--max-new-tokens", "400", "--temperature", "0")  # says the same again and again
    with Command("chat", checkpoint, *message) as running:
        running.stdin.write("Hello\n")
        assert running.stdout.read(1)
        running.send_signal(signal.SIGINT)
        reported = running.stderr.readline()
        while "tokens, first after" not in reported:
            reported = running.stderr.readline()
        assert "stopped" in reported
        code, _, _ = running.communicate("/exit\n")
    assert code == 0
