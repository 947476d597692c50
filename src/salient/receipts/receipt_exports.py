"""A receipt in the words of others: a model card's model-index, and llama.cpp's statistics."""

from typing import Any

from salient.core.records import to_json

from .receipt_record import Receipt

# Blocks of llama.cpp's `llama-perplexity --kl-divergence`: title -> (label, decimals, unit)
_BLOCKS: tuple[tuple[str, tuple[tuple[str, int, str], ...]], ...] = (
    (
        "Perplexity statistics",
        (
            ("Mean PPL(Q)", 6, ""),
            ("Mean PPL(base)", 6, ""),
            ("Cor(ln(PPL(Q)), ln(PPL(base)))", 2, "%"),
            ("Mean ln(PPL(Q)/PPL(base))", 6, ""),
            ("Mean PPL(Q)/PPL(base)", 6, ""),
            ("Mean PPL(Q)-PPL(base)", 6, ""),
        ),
    ),
    (
        "KL divergence statistics",
        tuple(
            (f"{label} KLD", 6, "")
            for label in ("Mean", "Maximum", "99.9%", "99.0%", "95.0%", "90.0%", "Median",
                          "10.0%", "5.0%", "1.0%", "0.1%", "Minimum")
        ),
    ),
    (
        "Token probability statistics",
        (
            *(
                (f"{label} Δp", 3, "%")
                for label in ("Mean", "Maximum", "99.9%", "99.0%", "95.0%", "90.0%", "75.0%",
                              "Median", "25.0%", "10.0%", "5.0%", "1.0%", "0.1%", "Minimum")
            ),
            ("RMS Δp", 3, "%"),
            ("Same top p", 3, "%"),
        ),
    ),
)  # fmt: skip


def llama_cpp_text(receipt: Receipt) -> str:
    """The figures as `llama-perplexity --kl-divergence` prints them."""
    lines: list[str] = []
    for title, rows in _BLOCKS:
        lines.append(f"====== {title} ======")
        for label, decimals, unit in rows:
            value, error = (receipt.llama_cpp.get(key) for key in (label, f"{label} ±"))
            if value is not None:
                spread = "" if error is None else f" ± {error:10.{decimals}f}"
                lines.append(
                    f"{_padded(label):<30}: {value:10.{decimals}f}{spread}{unit and ' '}{unit}"
                )
        lines.append("")
    return "\n".join(lines)


def _padded(label: str) -> str:
    """llama.cpp aligns the unit after the first word: 'Mean    KLD'."""
    word, _, unit = label.rpartition(" ")
    return f"{word:<7} {unit}" if unit in ("KLD", "Δp") else label


def model_index(receipt: Receipt) -> dict[str, Any]:
    """The front matter `model-index` of a model card (huggingface_hub's ModelCardData)."""
    own = receipt.figures
    figures = (
        ("kl_divergence", "Mean KL (nats)", own.kl.value),
        ("kl_divergence_p99", "KL, 99 %", own.kl_p99.value),
        ("kl_divergence_p999", "KL, 99.9 %", own.kl_p999.value),
        ("kl_divergence_max", "KL, largest", own.kl_max),
        ("top1_agreement", "Same top token", own.top1.value),
        ("perplexity", "Perplexity", own.perplexity_checkpoint),
        ("perplexity_ratio", "Perplexity over the reference's", own.perplexity_ratio.value),
    )
    arguments = {
        "reference": receipt.reference.digest,
        "positions": own.positions,
        "window": receipt.panel.window,
    }
    result = {
        "task": {"type": "text-generation", "name": "Text Generation"},
        "dataset": {
            "name": f"Salient panel {receipt.panel.name}",
            "type": "salient-panel",
            "revision": receipt.panel.digest,
            "args": arguments,
        },
        "metrics": [
            {"type": kind, "name": name, "value": value, "verified": False}
            for kind, name, value in figures
        ],
        "source": {
            "name": f"salient receipt {receipt.salient}",
            "url": "https://pypi.org/project/salient-awq/",
        },
    }
    name = receipt.checkpoint.name.rstrip("/").rpartition("/")[2]
    return {"model-index": [{"name": name, "results": [to_json(result)]}]}


def model_index_text(receipt: Receipt) -> str:
    """`model_index` as YAML."""
    import yaml

    return yaml.safe_dump(model_index(receipt), sort_keys=False, allow_unicode=True)
