"""How fast llama.cpp is, through its own C functions: of Python there is a call a token.

Runs in the environment `llamacpp`. llama.cpp gets its best foot: a batch and micro-batch of the
whole prompt, logits of the last token only, weights in the order that it likes best (its default),
and attention in each of its two ways; decode and prefill are each told of the faster one.

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
    """Load, measure both ways, tell."""
    given = speed.parse(__doc__)

    import llama_cpp

    llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    settings = llama_cpp.llama_model_default_params()
    settings.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(given.model).encode(), settings)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {given.model}")
    found = {way: Context(model, given, way).measured() for way in FLASH}
    decode = {way: gaps for way, (gaps, _) in found.items()}
    prefill = {way: seconds for way, (_, seconds) in found.items()}
    speed.tell(
        given,
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
    """A cache and settings over the model; attention by the `way` of FLASH."""

    def __init__(self, model: Any, given: argparse.Namespace, way: str):
        import llama_cpp

        self.lib, self.given = llama_cpp, given
        self.prompt = speed.prompts(given)[0]
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = given.prompt_tokens + given.new_tokens + 1
        settings.n_batch = settings.n_ubatch = given.prompt_tokens
        settings.n_threads = settings.n_threads_batch = given.threads
        settings.flash_attn_type = FLASH.index(way)
        self.context = llama_cpp.llama_init_from_model(model, settings)
        if not self.context:
            raise SystemExit(f"llama.cpp makes no context with flash attention {way}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def measured(self) -> tuple[list[float], list[float]]:
        """Seconds from each token to the next, and of each prefill."""
        prefill = [self.timed_prefill() for _ in range(1 + self.given.repeats)][1:]
        times, token = [], self.best()
        for _ in range(self.given.new_tokens):
            self.compute([token])
            token = self.best()
            times.append(time.perf_counter())
        self.lib.llama_free(self.context)
        return speed.gaps(times), prefill

    def timed_prefill(self) -> float:
        """Seconds of the prompt from an empty cache to its first token."""
        memory = self.lib.llama_get_memory(self.context)
        self.lib.llama_memory_clear(memory, False)  # noqa: FBT003 (a C function has no names)
        start = time.perf_counter()
        self.compute(self.prompt)
        self.best()
        return time.perf_counter() - start

    def compute(self, tokens: list[int]) -> None:
        """Put `tokens` after those in the cache; without a list of outputs, the last has logits."""
        array = (self.lib.llama_token * len(tokens))(*tokens)
        batch = self.lib.llama_batch_get_one(array, len(tokens))
        if failed := self.lib.llama_decode(self.context, batch):
            raise SystemExit(f"llama_decode ended with {failed}")

    def best(self) -> int:
        """The most likely next token."""
        import numpy as np

        logits = self.lib.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocabulary,)).argmax())


def fastest(ways: dict[str, list[float]]) -> str:
    """The way with the smallest median."""
    return min(ways, key=lambda way: statistics.median(ways[way]))


def description(model: Any) -> str:
    """What llama.cpp calls the model, its type of weights included."""
    import llama_cpp

    text = ctypes.create_string_buffer(256)
    llama_cpp.llama_model_desc(model, text, len(text))
    return text.value.decode()


def _quiet(_level: int, _text: bytes, _data: Any) -> None:
    """Drop llama.cpp's log."""


# ctypes frees a callback that nothing holds.
quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_quiet)


if __name__ == "__main__":
    main()
