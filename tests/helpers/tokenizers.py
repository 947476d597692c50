"""Tiny tokenizers of the two great families, trained here; and texts that are hard for both."""

import json
import random

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "The cat sat on the mat, and the dog ran after the cat.",
    "def hello(name):\n    return f'Hello {name}!'\n",
    "我们今天去公园看花,你们去不去?",
    "Das Käsebrötchen schmeckt übermäßig gut 🧀🥖😀😀",
]
PIECES = [
    *(
        "the",
        " cat",
        " ",
        "  ",
        "\n",
        "\t",
        "def f(x):\n    return x",
        "Hello",
        " world",
        "1,000.5",
    ),
    *("你好", "公园", "。", "こんにちは", "한국어", "😀", "👩\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈"),
    *("e\u0301", "n\u0303o", "مرحبا", " بالعالم", "שלום", "हिन्दी", "ß", "ü", "Ω", "€"),
    *("\u00a0", "\ufeff", "\N{MATHEMATICAL FRAKTUR CAPITAL U}"),
]


def random_text(seed: int, count: int = 12) -> str:
    """Seeded pieces of many scripts, joined."""
    return "".join(random.Random(seed).choices(PIECES, k=count))


def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE, as GPT-2, Llama 3 and Qwen have it; its tokens cut characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES * 3, trainer)
    return wrapped(tokenizer)


def sentencepiece(decoder: str = "llama") -> PreTrainedTokenizerFast:
    """A BPE with spaces written as ▁ and a byte for what it has no token for, as Llama 2 has it.

    `decoder`: "llama" takes one space off the text, "metaspace" off its first token.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(LINES[:2] * 3, trainers.BpeTrainer(vocab_size=80))
    learned = json.loads(trained.to_str())["model"]
    special = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names = special + [name for name in learned["vocab"] if name not in special]
    model = models.BPE(
        vocab={name: i for i, name in enumerate(names)},
        merges=[tuple(pair) for pair in learned["merges"]],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    if decoder == "llama":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
        )
    return wrapped(tokenizer)


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


TOKENIZERS = {
    "byte-level": byte_level,
    "llama": sentencepiece,
    "metaspace": lambda: sentencepiece("metaspace"),
}
