"""Values, keys and file names of which hostile model folders are made."""

from collections.abc import Callable
from typing import Any

CANARY = "SALIENT_TEST_CANARY"  # the environment variable with the path of the file
CODE = f"import os\nopen(os.environ['{CANARY}'], 'w').close()\n"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
JSON_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "salient.json", INDEX, "modules.json",
    "adapter_config.json", "quantize_config.json", "hf_quant_config.json", "processor_config.json",
    "preprocessor_config.json", "1_Pooling/config.json", "vocab.json",
)  # fmt: skip
OTHER_FILES = (
    WEIGHTS, "chat_template.jinja", "chat_template.json", "README.md", "LICENSE", "merges.txt",
    "tokenizer.model", "tekken.json", "additional_chat_templates/tool.jinja", "journal.jsonl",
    "adapter_model.safetensors", "spiece.model", "vocab.txt", "qwen.tiktoken",
)  # fmt: skip
ODD: tuple[Callable[[], Any], ...] = (
    lambda: None, lambda: True, lambda: False, lambda: 0, lambda: -1, lambda: 1, lambda: 7,
    lambda: 10**5, lambda: 10**9, lambda: 2**31, lambda: 2**63, lambda: -(2**63) - 1,
    lambda: 10**400, lambda: 0.5, lambda: -0.0, lambda: 1e308, lambda: float("nan"),
    lambda: float("inf"), lambda: "", lambda: "x", lambda: "\ud800", lambda: "\x00",
    lambda: "\x1b[2J\x1b]0;x\x07", lambda: "\u202e", lambda: "a" * 100_000, lambda: "9" * 5000,
    lambda: [], lambda: [[]], lambda: [None], lambda: [0], lambda: [-1], lambda: [10**9],
    lambda: ["a", 1], lambda: [0] * 200_000, lambda: {}, lambda: {"": None},
    lambda: {"type": "linear", "factor": 1e300}, lambda: {"a": {"b": {"c": [1]}}},
    lambda: nested(40), lambda: nested(900), lambda: {str(i): i for i in range(50_000)},
    lambda: "../../../etc/passwd", lambda: "/dev/zero", lambda: "code.Model", lambda: "org/kernel",
    lambda: {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
)  # fmt: skip
KEYS = (
    "auto_map", "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "use_kernels", "quantization_config", "rope_scaling", "rope_parameters", "text_config",
    "vision_config", "num_hidden_layers", "hidden_size", "layer_types", "num_experts",
    "torch_dtype", "dtype", "architectures", "model_type", "tokenizer_class", "custom_generate",
    "id2label", "num_labels", "tie_word_embeddings", "vocab_size", "pruned_heads", "chat_template",
    "added_tokens_decoder", "extra_special_tokens", "eos_token_id", "stop_strings", "cache_config",
    "transformers_version", "transformers.js_config", "sliding_window", "_name_or_path", "backend",
    "model_max_length", "compile_config", "watermarking_config", "hidden_act",
    "num_return_sequences",
)  # fmt: skip


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value
