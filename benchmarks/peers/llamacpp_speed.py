"""Speed of llama.cpp through its C functions: one Python call per token.

Runs in the environment `llamacpp`, with the fastest settings: a batch and micro-batch of the whole
prompt, logits of the last token only, the default order of weights, and both kinds of attention;
decode and prefill each report the faster one.

    PYTHON=$(interop/environment.sh llamacpp)
    $PYTHON benchmarks/peers/llamacpp_speed.py --model MODEL.gguf --ids IDS.json
"""

import argparse
import ctypes
import statistics
import time
from typing import Any

import speed
from speed import Speed

FLASH = ("disabled", "enabled")


def main() -> None:
    """Load, measure both kinds of attention, print."""
    args = speed.parse(__doc__)

    import llama_cpp

    llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    settings = llama_cpp.llama_model_default_params()
    settings.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(args.model).encode(), settings)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {args.model}")
    figures = {way: Context(model, args, way).measured() for way in FLASH}
    decode = {way: gaps for way, (gaps, _) in figures.items()}
    prefill = {way: seconds for way, (_, seconds) in figures.items()}
    speed.print_figures(
        args,
        Speed(
            "llama.cpp",
            min(decode.values(), key=statistics.median),
            min(prefill.values(), key=statistics.median),
            how={
                "weights": description(model),
                "flash_attention": {"decode": fastest(decode), "prefill": fastest(prefill)},
                "decode_by_way": {way: statistics.median(t) for way, t in decode.items()},
                "prefill_by_way": {way: statistics.median(t) for way, t in prefill.items()},
                "system": llama_cpp.llama_print_system_info().decode().strip(" |"),
                "versions": {"llama-cpp-python": llama_cpp.__version__},
            },
        ),
    )


class Context:
    """A cache and settings of the model. way: of FLASH"""

    def __init__(self, model: Any, args: argparse.Namespace, way: str):
        import llama_cpp

        self.lib, self.args = llama_cpp, args
        self.prompt = speed.prompts(args)[0]
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = args.prompt_tokens + args.new_tokens + 1
        settings.n_batch = settings.n_ubatch = args.prompt_tokens
        settings.n_threads = settings.n_threads_batch = args.threads
        settings.flash_attn_type = FLASH.index(way)
        self.context = llama_cpp.llama_init_from_model(model, settings)
        if not self.context:
            raise SystemExit(f"llama.cpp creates no context with flash attention {way}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def measured(self) -> tuple[list[float], list[float]]:
        """Seconds from each token to the next, and of each prefill."""
        prefill = [self.timed_prefill() for _ in range(1 + self.args.repeats)][1:]
        times, token = [], self.best()
        for _ in range(self.args.new_tokens):
            self.compute([token])
            token = self.best()
            times.append(time.perf_counter())
        self.lib.llama_free(self.context)
        return speed.gaps(times), prefill

    def timed_prefill(self) -> float:
        """Seconds from an empty cache to the first token after the prompt."""
        memory = self.lib.llama_get_memory(self.context)
        self.lib.llama_memory_clear(memory, False)  # noqa: FBT003 (a C function has no names)
        start = time.perf_counter()
        self.compute(self.prompt)
        self.best()
        return time.perf_counter() - start

    def compute(self, tokens: list[int]) -> None:
        """Append `tokens` to the cache; only the last one has logits."""
        array = (self.lib.llama_token * len(tokens))(*tokens)
        batch = self.lib.llama_batch_get_one(array, len(tokens))
        if failed := self.lib.llama_decode(self.context, batch):
            raise SystemExit(f"llama_decode returned {failed}")

    def best(self) -> int:
        """The most likely next token."""
        import numpy as np

        logits = self.lib.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocabulary,)).argmax())


def fastest(ways: dict[str, list[float]]) -> str:
    """The way with the smallest median."""
    return min(ways, key=lambda way: statistics.median(ways[way]))


def description(model: Any) -> str:
    """llama.cpp's name of the model, with its type of weights."""
    import llama_cpp

    text = ctypes.create_string_buffer(256)
    llama_cpp.llama_model_desc(model, text, len(text))
    return text.value.decode()


def _quiet(_level: int, _text: bytes, _data: Any) -> None:
    """Discard llama.cpp's log."""


# A reference: ctypes does not hold callbacks.
quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_quiet)


if __name__ == "__main__":
    main()
