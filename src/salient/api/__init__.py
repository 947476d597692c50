"""The verbs of Salient in Python, with the options of the command line.

    result = salient.quantize("smollm2-135m", "out", scheme="w4-g64")
    result = salient.validate("out", reference="smollm2-135m")
    model, tokenizer = salient.load("out")

Each verb with a command takes the fields of its options record (`with_options`). The verbs import
what they need when they run: none imports torch before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from salient.awq.options import QuantizeOptions
from salient.compare.options import CompareOptions
from salient.convert.options import ConvertOptions
from salient.core.options import StrPath, with_options
from salient.core.progress import Progress, silent
from salient.diagnose.options import DoctorOptions
from salient.export.options import ExportOptions
from salient.hub.options import PushOptions
from salient.loadtest.options import LoadTestOptions
from salient.plan.options import PlanOptions
from salient.receipts.options import PanelOptions, ReceiptOptions
from salient.runtime.options import (
    BenchOptions,
    ChatOptions,
    EngineOptions,
    GenerateOptions,
    InspectOptions,
    LoadEngineOptions,
)
from salient.serve.options import ServeOptions
from salient.validate.options import EvaluateOptions, ValidateOptions

from .verb_results import (
    BenchResult,
    CompareResult,
    ConvertResult,
    DoctorResult,
    EvaluateResult,
    ExportResult,
    GenerateResult,
    InspectResult,
    LoadTestResult,
    PanelResult,
    PlanResult,
    PushResult,
    QuantizeResult,
    ReceiptResult,
    ValidateResult,
)

if TYPE_CHECKING:
    from fastapi import FastAPI
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from salient.runtime.chat import Conversation
    from salient.runtime.load_engine import LoadedEngine
    from salient.serve.embedded import ServedModel

__all__ = [
    "Progress",
    "bench",
    "chat",
    "compare",
    "convert",
    "doctor",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "load",
    "load_engine",
    "load_test",
    "panel",
    "plan",
    "push",
    "quantize",
    "receipt",
    "serve",
    "silent",
    "validate",
]


@with_options(PlanOptions)
def plan(options: PlanOptions) -> PlanResult:
    """Show which format fits a device, which kernel runs it, and how fast.

    With `config`, for every deployment of a salient.toml. The result passed if some format meets
    the requirements. Raises ModelError for the model, RequestError for invalid options.
    """
    from datetime import date
    from pathlib import Path

    from salient.plan.adr import write_record
    from salient.plan.plan_deployments import deployments_file, plan_all
    from salient.plan.planner import make_plan
    from salient.plan.report import to_report

    if options.config:
        return PlanResult(*plan_all(deployments_file(options)))
    decision = make_plan(options)
    report = to_report(decision)
    if options.adr:
        write_record(decision, Path(options.adr), date.today())
        report.lines.append(f"Decision record: {options.adr}")
    return PlanResult(report, decision.devices, decision.decision == "unsure")


@with_options(DoctorOptions)
def doctor(options: DoctorOptions) -> DoctorResult:
    """Find what is wrong or slow in a checkpoint, a log, serving settings or this machine.

    With `follow` the log is read as it grows, and `on_finding` gets each finding. The result passed
    if nothing is wrong or slow.

    Raises ModelError, CheckpointError or RequestError for what cannot be read.
    """
    from salient.diagnose.doctor import diagnose, follow_log
    from salient.diagnose.report import summary_report, to_report

    diagnosis = follow_log(options) if options.follow else diagnose(options)
    report = summary_report(diagnosis) if options.follow else to_report(diagnosis)
    return DoctorResult(
        report, tuple(diagnosis.findings), tuple(diagnosis.read), undecided=diagnosis.undecided
    )


@with_options(QuantizeOptions)
def quantize(options: QuantizeOptions) -> QuantizeResult:
    """Quantize a model to 4 bits; an interrupted run resumes.

    Raises SalientError with what is wrong, what fits and what to do next.
    """
    from salient.awq.quantize import quantize_model

    job, evidence, report = quantize_model(options)
    return QuantizeResult(report, job.output, str(job.layers.scheme), evidence)


@with_options(InspectOptions)
def inspect(options: InspectOptions) -> InspectResult:
    """Show a checkpoint's format, layers and evidence, or how a 16-bit model will be scaled.

    For a 16-bit model: its kinds of blocks with their scale groups, absorbers, readers and proof
    errors, and what stays unquantized. With `runtime`: kernels and fused blocks on this machine.
    """
    if options.runtime:
        from salient.runtime.inspect_runtime import inspect_runtime

        checkpoint, report = inspect_runtime(str(options.model), EngineOptions())
    else:
        from salient.models.inspect import inspect_checkpoint

        checkpoint, report = inspect_checkpoint(str(options.model), options.progress)
    return InspectResult(report, checkpoint)


@with_options(ValidateOptions)
def validate(options: ValidateOptions) -> ValidateResult:
    """Decide whether to ship a checkpoint: likelihood, tasks, long context, load, and a policy.

    The result has the verdict and its exit code. Raises SalientError for invalid options; what
    fails later is an undecided rule.
    """
    from salient.validate.validate import validate_checkpoint

    measured, report = validate_checkpoint(options)
    assert measured.verdict is not None
    return ValidateResult(report, measured, measured.verdict)


@with_options(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> EvaluateResult:
    """Measure a checkpoint against its 16-bit model: KL, top-1 agreement, perplexity.

    `tasks`, `context_lengths` and `attribute` measure those stages instead, or with `text` in
    addition. Raises SalientError for what cannot be measured.
    """
    from salient.validate.validate import evaluate_checkpoint

    measured, report = evaluate_checkpoint(options)
    return EvaluateResult(report, measured)


@with_options(ReceiptOptions)
def receipt(options: ReceiptOptions) -> ReceiptResult:
    """Measure a checkpoint on a panel of tokens and write a receipt that anybody can check.

    With `verify` a receipt is measured again: the result passed if its figures agree. It did not
    pass where the calibration text holds text of the panel. Raises SalientError for what cannot be
    measured; nothing is written then.
    """
    from salient.receipts.receipt_run import write_receipt

    measured, verification, report = write_receipt(options)
    return ReceiptResult(report, measured, verification)


@with_options(CompareOptions)
def compare(options: CompareOptions) -> CompareResult:
    """Compare ways to quantize a model on its own tokens: KL, top-1, perplexity, bits, time.

    A contestant that cannot be made is named with the reason. Raises SalientError for the model,
    the text, and where none can be measured.
    """
    from salient.compare.compare_run import compare_contestants

    comparison, report = compare_contestants(options)
    return CompareResult(report, comparison)


@with_options(PanelOptions)
def panel(options: PanelOptions) -> PanelResult:
    """Make a panel: the tokens, by kind of text, that receipts are measured on.

    Raises SalientError for texts or models that cannot be read.
    """
    from salient.receipts.panel_verb import write_panel_file

    tokens, report = write_panel_file(options)
    return PanelResult(report, tokens)


@with_options(LoadTestOptions)
def load_test(options: LoadTestOptions) -> LoadTestResult:
    """Time an OpenAI-compatible server. A key is read from OPENAI_API_KEY.

    The result passed if no request failed. Raises RequestError for invalid options and a server
    that does not answer; requests that fail are counted.
    """
    from salient.loadtest.report import load_test

    steps, report = load_test(options)
    return LoadTestResult(report, tuple(steps))


@with_options(ServeOptions)
def serve(options: ServeOptions) -> int:
    """Serve a checkpoint to OpenAI clients, with a page to explore it at /.

    The demo model is quantized first, once. Returns the exit code at the end, after a signal: 0, or
    that of a vLLM that ended by itself. Raises SalientError if the server cannot start.
    """
    from salient.serve.server import run_server

    return run_server(options, _add_explorer)


def _add_explorer(app: FastAPI, served: ServedModel, reference: ServedModel | None) -> None:
    from salient.explorer.routes import add_explorer
    from salient.explorer.state import ExplorerState

    add_explorer(app, ExplorerState(served, reference))


@with_options(GenerateOptions)
def generate(options: GenerateOptions) -> GenerateResult:
    """Continue prompts, several at once; greedy by default.

    Raises RequestError for invalid options, ModelError and CheckpointError for invalid files.
    """
    from salient.runtime.generate import generate_texts

    sequences, report = generate_texts(options)
    return GenerateResult(report, tuple(s.text for s in sequences), tuple(sequences))


@with_options(ChatOptions)
def chat(options: ChatOptions) -> Conversation:
    """Chat with a checkpoint.

    The result's `send(text)` yields the answer as it comes. Options that are None take the model's
    own defaults.
    """
    from salient.runtime.chat import open_conversation

    return open_conversation(options)


@with_options(BenchOptions)
def bench(options: BenchOptions) -> BenchResult:
    """Check kernels, then time them at several concurrencies: latency, throughput, memory."""
    from salient.runtime.bench.bench import bench_checkpoint

    rows, report = bench_checkpoint(options)
    return BenchResult(report, tuple(rows))


@with_options(ConvertOptions)
def convert(options: ConvertOptions) -> ConvertResult:
    """Write a checkpoint's codes in another format: every integer and scale unchanged.

    Raises SalientError, and writes nothing, for what the other format cannot hold exactly.
    """
    from salient.convert.convert import convert_checkpoint

    return ConvertResult(convert_checkpoint(options))


@with_options(ExportOptions)
def export(options: ExportOptions) -> ExportResult:
    """Write a checkpoint as a GGUF file, for llama.cpp, Ollama and LM Studio.

    Its codes are unchanged; names and metadata come from `template`, a GGUF file of the same model.
    Raises SalientError for a template of another model, and for what has no place in the file.
    """
    from salient.export.engine_file import export_checkpoint_file

    return ExportResult(export_checkpoint_file(options))


@with_options(PushOptions)
def push(options: PushOptions) -> PushResult:
    """Upload a checkpoint to the Hugging Face Hub; with `dry_run` only list what would be sent.

    The token is that of `hf auth login` or HF_TOKEN. Raises SalientError for a folder that is no
    finished checkpoint, and for a repository that cannot be written.
    """
    from salient.hub.push import push_checkpoint

    url, report = push_checkpoint(options)
    return PushResult(report, url)


def load(
    checkpoint: StrPath, *, dtype: str = "auto", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Transformers model with the checkpoint's weights dequantized, and its tokenizer.

    `dtype` 'auto' is float32, in which the dequantized weights are exact.
    """
    from salient.models.model_folder import load_dequantized

    return load_dequantized(str(checkpoint), dtype, device)


@with_options(LoadEngineOptions)
def load_engine(options: LoadEngineOptions) -> LoadedEngine:
    """Load a checkpoint that generates: `.engine`, `.model`, `.audit`."""
    from salient.runtime.load_engine import load

    return load(str(options.checkpoint), options)


# The options record of each verb that has one.
OPTIONS: dict[str, type] = {
    name: globals()[name].options_record
    for name in __all__
    if hasattr(globals()[name], "options_record")
}
