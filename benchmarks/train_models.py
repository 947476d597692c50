"""Three small models trained on text of this machine, so that no result rests on one model.

    .venv/bin/python benchmarks/train_models.py [NAME ...] [--steps 300] [--work .work/bench]

    llama     a Llama with grouped queries and tied embeddings
    gemma     Gemma 3: norms that multiply by 1 + w, norms after attention and MLP, norms of heads
    mixture   Qwen3's mixture: two of eight experts per token, norms of heads

Each has 10 to 15 million parameters and widths that 128 divides, and is trained from a fixed seed:
minutes on 2 cores. The text is what every Debian machine with Python has: the standard library
without its tests, and the manual pages of commands without Perl's. The texts of `texts.py` are no
part of it. The tokenizer is trained on the same text. A model is written once, to WORK/trained/NAME
with a stamp of text, steps and this file; delete the folder to train again.
"""

import argparse
import gzip
import hashlib
import json
import math
import random
import re
import sysconfig
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
)

from subprocess_run import log_step

VOCABULARY = 8192
END = "<|end|>"
LENGTH, BATCH = 512, 8  # tokens per sample, samples per step
STEPS = 300
RATE, WARM_UP = 3e-3, 40  # highest learning rate of AdamW, steps up to it
LETTERS = 6_000_000  # of each kind of text
LONGEST = 60_000  # letters of a document
MANUALS = Path("/usr/share/man/man1")
SHARED = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        **SHARED,
    ),
    "gemma": Gemma3TextConfig(
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=5,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=128,
        query_pre_attn_scalar=128,
        sliding_window=LENGTH,
        **SHARED,
    ),
    "mixture": Qwen3MoeConfig(
        hidden_size=256,
        intermediate_size=512,
        moe_intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        output_router_logits=True,
        **SHARED,
    ),
}


def main() -> None:
    """Train the missing models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*CONFIGS, []], metavar="NAME")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--work", type=Path, default=Path(".work/bench"))
    options = parser.parse_args()
    for name in options.names or CONFIGS:
        print(trained_model(name, options.work, options.steps))


def trained_model(name: str, work: Path, steps: int = STEPS) -> Path:
    """The folder of a trained model; trains it if it does not exist."""
    folder = work / "trained" / name
    if not (folder / "training.json").exists():
        _train(name, folder, steps)
    return folder


@cache
def training_text() -> tuple[str, ...]:
    """Documents of both kinds, mixed in a fixed order."""
    texts = [
        text
        for documents in (_python_sources(), _manuals())
        for text in _sample(documents, LETTERS)
    ]
    random.Random(0).shuffle(texts)
    return tuple(texts)


def _sample(documents: Iterator[str], letters: int) -> list[str]:
    """Documents, in a fixed order of their contents, until they have `letters` letters."""
    pool = sorted({d for d in documents if len(d) > LENGTH}, key=_sha256)
    selected, total = list[str](), 0
    for text in pool:
        if total >= letters:
            break
        selected.append(text[:LONGEST])
        total += len(selected[-1])
    return selected


def _python_sources() -> Iterator[str]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in root.rglob("*.py"):
        if not {"test", "tests", "site-packages", "dist-packages"} & set(path.parts):
            yield path.read_text(encoding="utf-8", errors="ignore")


def _manuals() -> Iterator[str]:
    for path in MANUALS.glob("*.gz"):
        if not path.is_symlink() and not path.name.startswith("perl"):
            yield without_macros(gzip.decompress(path.read_bytes()).decode(errors="ignore"))


def without_macros(roff: str) -> str:
    """The text of a manual page: requests and escapes of roff removed."""
    lines = []
    for line in roff.splitlines():
        if line.startswith((".SH", ".SS", ".B ", ".I ", ".BR ", ".IR ", ".IP ")):
            line = line.partition(" ")[2].replace('"', "")
        elif line.startswith((".", "'")):
            continue
        lines.append(line)
    text = re.sub(r"\\f(\[\w*\]|\(..|.)|\\[&|^/,]|\\s[-+]?\d+", "", "\n".join(lines))
    return re.sub(r"\\\((.)(.)", r"\2", text).replace("\\-", "-").replace("\\e", "\\")


def _train(name: str, folder: Path, steps: int) -> None:
    started = time.monotonic()
    tokenizer, tokens = _tokenized_text()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).train()
    size = sum(weight.numel() for weight in model.parameters())
    log_step(f"{name}: {size / 1e6:.1f} million parameters, {len(tokens):,} tokens of text")
    loss = _fit(model, tokens, steps)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder)
    facts = {
        "text": _sha256("".join(training_text())),
        "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "parameters": size,
        "steps": steps,
        "tokens": steps * BATCH * LENGTH,
        "loss": round(loss, 4),
        "seconds": round(time.monotonic() - started, 1),
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def _fit(model: nn.Module, tokens: Tensor, steps: int) -> float:
    """Train `model` on samples of `tokens` [tokens], in a fixed order; the last mean loss."""
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2,
    )
    samples = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    recent: list[float] = []
    for step in range(steps):
        batch = samples[order.roll(-step * BATCH)[:BATCH]]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent = [*recent[-19:], float(loss.detach())]
        if step % 20 == 0:
            log_step(f"step {step} of {steps}: loss {sum(recent) / len(recent):.3f}")
    return sum(recent) / len(recent)


@cache
def _tokenized_text() -> tuple[Tokenizer, Tensor]:
    """A byte-level BPE of VOCABULARY tokens, and the text in its tokens, int64 [tokens].

    Token 0 ends a document.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    encoded = tokenizer.encode_batch(training_text())
    return tokenizer, torch.tensor([id for text in encoded for id in (*text.ids, 0)])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    main()
