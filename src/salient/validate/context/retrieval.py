"""Facts hidden in long texts: how many each model finds, generating with one engine per model.

All questions about a text run one after another in one slot, so that the engine computes the text
once.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from salient.core.corpus import builtin
from salient.core.devices import find_device
from salient.core.progress import Progress
from salient.core.system import release_memory
from salient.models.tokens import load_tokenizer
from salient.runtime.engine import Engine
from salient.runtime.load_engine import EngineOptions, LoadedEngine
from salient.runtime.sampling_params import SamplingParams
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import ModelPair, PairMember

from .haystack import ANSWER_TOKENS, RetrievalProbe, is_right, make_probes
from .result import RetrievalResult

MOST_TEXTS = 4
SPARSE = 4  # one in so many questions, where each costs its whole text
CPU_TOKENS, GPU_TOKENS = 4096, 32768  # of the texts of a length, but one at least


@dataclass(frozen=True)
class ProbeAnswers:
    """Answers to the probes of a text, None for a probe that was left out.

    computed: tokens of prompts that the model computed instead of taking from its cache
    """

    answers: list[str | None]
    computed: int


def texts_of(lengths: Sequence[int], device: str) -> list[list[int]]:
    """The lengths that each text serves: short ones are in several texts, long ones in one."""
    tokens = CPU_TOKENS if find_device(device).type == "cpu" else GPU_TOKENS
    times = {length: max(1, min(tokens // length, MOST_TEXTS)) for length in lengths}
    texts = [[n for n in lengths if times[n] > number] for number in range(MOST_TEXTS)]
    return [text for text in texts if text]


def measure_retrieval(
    pair: ModelPair, lengths: Sequence[int], seed: int, cache: ValidationCache, progress: Progress
) -> RetrievalResult:
    """Let both models answer the question for every fact, the reference first.

    Raises SalientError where a model cannot be run, such as ResourceError for want of memory.
    """
    texts = _texts(load_tokenizer(pair.reference.source.folder), lengths, pair.device, seed)
    answers: list[list[str | None]] = []
    computed: dict[str, int] = {}
    for number, side in enumerate(pair.sides):
        parts = _answer_texts(side, texts, pair.device, cache, progress.part(number, 1, 2))
        answers.append([answer for part in parts for answer in part.answers])
        computed[side.role] = sum(part.computed for part in parts)
    rows = zip((probe for probes in texts for probe in probes), *answers, strict=True)
    both = [(p, r, q) for p, r, q in rows if r is not None and q is not None]
    return RetrievalResult(
        probes=[p for p, _, _ in both],
        reference=[is_right(r, p.code) for p, r, _ in both],
        quantized=[is_right(q, p.code) for p, _, q in both],
        computed=computed,
    )


def answer_probes(engine: Engine, probes: Sequence[RetrievalProbe]) -> ProbeAnswers:
    """The answers to the probes of one text.

    Where the engine cannot reuse a text, only one probe in SPARSE is answered.
    """
    sampling = SamplingParams(max_new_tokens=ANSWER_TOKENS, stop=(".",))
    answers: list[str | None] = [None] * len(probes)
    step, computed = (1 if engine.runner.reuses_prefixes else SPARSE), 0
    for number in range(step // 2, len(probes), step):
        (answer,) = engine.generate([probes[number].prompt], sampling)
        answers[number] = answer.text
        computed += len(answer.prompt) - answer.reused
    return ProbeAnswers(answers, computed)


def _texts(
    tokenizer: Any, lengths: Sequence[int], device: str, seed: int
) -> list[list[RetrievalProbe]]:
    """The probes of each text that has any."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    bare, whole = encode("a"), tokenizer("a", add_special_tokens=True, verbose=False).input_ids
    begin = whole[: whole.index(bare[0])] if bare and bare[0] in whole else []
    prose = encode("\n\n".join(d.text for d in builtin("heldout") if d.kind == "prose"))
    texts = (
        make_probes(encode, prose, begin, some, seed + number)
        for number, some in enumerate(texts_of(lengths, device))
    )
    return [probes for probes in texts if probes]


def _answer_texts(
    side: PairMember,
    texts: list[list[RetrievalProbe]],
    device: str,
    cache: ValidationCache,
    progress: Progress,
) -> list[ProbeAnswers]:
    """The answers to each text's probes; the model is opened for the first that is not cached."""
    opened: list[LoadedEngine] = []
    longest = max((probe.length for probes in texts for probe in probes), default=0)

    def answer(probes: list[RetrievalProbe]) -> ProbeAnswers:
        if not opened:
            opened.append(
                side.open_engine(EngineOptions(device=device, context_length=longest, slots=1))
            )
        return answer_probes(opened[0].engine, probes)

    parts = []
    for number, probes in enumerate(texts):
        progress(number, len(texts), f"facts hidden in {probes[-1].length} tokens, {side.role}")
        prompts = json.dumps([probe.prompt for probe in probes])
        digest = hashlib.sha256(prompts.encode()).hexdigest()
        part = cache.part(
            "retrieval",
            {side.role: side.fingerprint, "prompts": digest},
            partial(answer, probes),
            ProbeAnswers,
            shared=side.role == "reference",
        )
        parts.append(part)
    if opened:
        opened.clear()
        release_memory()
    return parts
