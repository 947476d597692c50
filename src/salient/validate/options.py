"""Options of the verbs `validate` and `evaluate`. Imports no torch."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

from salient.core.options import DEVICE, TRUST_REMOTE_CODE, OptionSpec, Strings, StrPath
from salient.core.progress import Progress, silent

ContextLengths = int | Sequence[int] | Literal["auto"]

TASKS = "A .jsonl file, a bundled set, 'bundled' (all of them) or lm-eval:NAME; may be repeated."
CONTEXT_LENGTHS = OptionSpec(
    "Context lengths to measure: 512,2048, auto (all that the model allows), or off.",
    separator=",",
    off="off",
    minimum=1,
)


@dataclass(frozen=True)
class EvaluateOptions:
    """The two models and what to measure.

    tasks, context_lengths: None leaves the stage out
    """

    checkpoint: Annotated[StrPath, OptionSpec("A quantized checkpoint.", positional=True)]
    _: KW_ONLY
    reference: Annotated[
        StrPath, OptionSpec("The 16-bit model: a folder, a Hub id, or 'smollm2-135m'.")
    ]
    adapter: Annotated[
        StrPath | None,
        OptionSpec("LoRA adapter folder that the checkpoint was made with: merged in --reference."),
    ] = None
    text: Annotated[
        Strings,
        OptionSpec(
            "A .txt or .jsonl file, or wikitext2, to measure likelihood on; may be repeated."
        ),
    ] = ()
    tasks: Annotated[Strings | None, OptionSpec(TASKS, off="off")] = None
    context_lengths: Annotated[ContextLengths | None, CONTEXT_LENGTHS] = None
    attribute: Annotated[bool, OptionSpec("Measure which blocks and layers cost most.")] = False
    samples: Annotated[
        int | None,
        OptionSpec(
            "Sequences per text. Default: 16, or with --protocol as many as the text holds.",
            minimum=1,
        ),
    ] = None
    sequence_length: Annotated[int, OptionSpec("Tokens per sequence.", minimum=2)] = 512
    stride: Annotated[
        int | None, OptionSpec("Tokens between the starts of sequences. Default: no overlap.")
    ] = None
    protocol: Annotated[
        str | None,
        OptionSpec(
            "Replaces length and stride: classic (2048, as in papers) or sliding (2048, 512)."
        ),
    ] = None
    trust_remote_code: Annotated[bool, TRUST_REMOTE_CODE] = False
    report: Annotated[
        StrPath | None, OptionSpec("Folder for report.html, report.md and report.json.")
    ] = None
    fresh: Annotated[bool, OptionSpec("Measure again what an earlier run has measured.")] = False
    device: Annotated[str, DEVICE] = "auto"
    progress: Progress = silent


@dataclass(frozen=True)
class ValidateOptions(EvaluateOptions):
    """The options of `evaluate`, a policy and a load test.

    load_test: None leaves the stage out
    """

    _: KW_ONLY
    policy: Annotated[
        StrPath, OptionSpec("strict, balanced, lenient, or a TOML file of thresholds.")
    ] = "balanced"
    tasks: Annotated[Strings | None, OptionSpec(f"{TASKS} off: skip.", off="off")] = "bundled"
    context_lengths: Annotated[ContextLengths | None, CONTEXT_LENGTHS] = "auto"
    load_test: Annotated[
        str | None,
        OptionSpec("A server, for example http://localhost:8000; embedded; or off.", off="off"),
    ] = "embedded"
