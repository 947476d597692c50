"""Facts hidden in long texts: how many each model finds, generating with one engine per model.

All questions about a text run one after another in one slot, so that the engine computes the text
once.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from salient.core.corpus import builtin
from salient.core.devices import find_device
from salient.core.progress import Progress
from salient.models.tokens import load_tokenizer
from salient.runtime.engine import Engine
from salient.runtime.sampling_params import SamplingParams
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import ModelPair
from salient.validate.tasks.answering import Examinee, ModelAnswer

from .haystack import ANSWER_TOKENS, RetrievalProbe, is_right, make_probes
from .result import RetrievalResult

MOST_TEXTS = 4
SPARSE = 4  # one in so many questions, where each costs its whole text
CPU_TOKENS, GPU_TOKENS = 4096, 32768  # of the texts of a length, but one at least


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
    texts = _texts(load_tokenizer(pair.reference.companions), lengths, pair.device, seed)
    longest = max((probe.length for probes in texts for probe in probes), default=0)
    answers: list[list[str | None]] = [[], []]
    computed: dict[str, int] = {}
    for step, (side, own) in enumerate(zip(pair.sides, answers, strict=True)):
        examinee = Examinee(side, cache, pair.device, longest, slots=1)
        part = progress.part(step, 1, 2)
        try:
            for number, probes in enumerate(texts):
                label = f"facts hidden in {probes[-1].length} tokens, {side.role}"
                part(number, len(texts), label)
                prompts = [probe.prompt for probe in probes]
                own += examinee.part("retrieval", prompts, partial(answer_probes, probes=probes))
        finally:
            examinee.close()
        computed[side.role] = examinee.throughput.prompt_tokens
    rows = zip((probe for probes in texts for probe in probes), *answers, strict=True)
    both = [(p, r, q) for p, r, q in rows if r is not None and q is not None]
    return RetrievalResult(
        probes=[p for p, _, _ in both],
        reference=[is_right(r, p.code) for p, r, _ in both],
        quantized=[is_right(q, p.code) for p, _, q in both],
        computed=computed,
    )


def answer_probes(engine: Engine, probes: Sequence[RetrievalProbe]) -> ModelAnswer:
    """The answers to the probes of one text, None for one that was left out.

    Where the engine cannot reuse a text, only one probe in SPARSE is answered.
    """
    sampling = SamplingParams(max_new_tokens=ANSWER_TOKENS, stop=(".",))
    answers: list[object] = [None] * len(probes)
    step, computed, new = (1 if engine.runner.reuses_prefixes else SPARSE), 0, 0
    for number in range(step // 2, len(probes), step):
        (answer,) = engine.generate([probes[number].prompt], sampling)
        answers[number] = answer.text
        computed += len(answer.prompt) - answer.reused
        new += len(answer.tokens)
    return ModelAnswer(answers, computed, new)


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
