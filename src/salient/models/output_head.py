"""What a model answers with, and how two models' answers are compared.

tokens     logits of the next token: a language model
labels     logits of classes: a sequence classifier
score      one number: a reward model
embedding  the pooled hidden state: an embedding model

Engines read labels, scores and embeddings at the end of a text. Every position ends a shorter text,
so all of them are compared.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from salient.core.errors import ModelError, RequestError
from salient.core.metrics import LogitsComparison, compare_logits
from salient.core.model_files import read_json

POOLING = "1_Pooling/config.json"  # of sentence-transformers
# Of similarities between embeddings, as in contrastive training (Gao et al. 2021, SimCSE, 4.1).
TEMPERATURE = 0.05
# What KL and top-1 are of, by kind of answer.
MEASURES = {
    "tokens": ("KL (nats a token)", "top-1 agreement"),
    "labels": ("KL of labels (nats)", "same label"),
    "score": ("KL of preferences (nats)", "same order of two texts"),
    "embedding": ("KL of similarities (nats)", "same nearest text"),
}
ANSWERS = {
    "labels": "classifies texts",
    "score": "scores texts (a reward model)",
    "embedding": "embeds texts",
}


@dataclass(frozen=True)
class OutputHead:
    """The part of a model that answers.

    module: the linear of labels and scores, '' for others
    mean: whether an embedding is the mean of all tokens; else it is the last token's
    """

    kind: Literal["tokens", "labels", "score", "embedding"] = "tokens"
    module: str = ""
    mean: bool = False

    def read(self, model: Any, hidden: Tensor) -> Tensor:
        """The answers at each position, [samples, tokens, ...], from the final hidden states."""
        if self.kind != "embedding":
            return model.get_submodule(self.module)(hidden)
        hidden = hidden.float()
        if self.mean:
            counts = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
            hidden = hidden.cumsum(1) / counts[:, None]
        return normalize(hidden, dim=-1)

    def compare(self, reference: Tensor, quantized: Tensor, ids: Tensor) -> LogitsComparison:
        """Compare the answers of two models at each position [tokens, ...] of the text `ids`."""
        if self.kind == "tokens":
            return compare_logits(reference, quantized, ids)
        nothing = torch.full_like(ids, -1)
        sums = compare_logits(self.classes(reference), self.classes(quantized), nothing)
        if self.kind == "embedding":
            sums.cosine_sum = float((reference * quantized).sum(-1).double().sum())
        return sums

    def classes(self, answers: Tensor) -> Tensor:
        """`answers` [tokens, ...] as logits [tokens, classes].

        A score is compared with that of another position, as in the preferences that it is trained
        on (Bradley and Terry 1952); an embedding with those of all others.
        """
        if self.kind == "score":
            return torch.cat([answers, answers.roll(len(answers) // 2, 0)], -1)
        if self.kind == "embedding":
            likeness = answers @ answers.t() / TEMPERATURE
            return likeness.fill_diagonal_(-torch.inf)
        return answers

    def check_generates(self, name: str) -> None:
        """Raise RequestError if the model does not generate text."""
        if self.kind != "tokens":
            raise RequestError(
                f"{name} {ANSWERS[self.kind]} and generates no text. Serve it with "
                f"`vllm serve {name} --runner pooling`; compare it with its 16-bit model by "
                "`salient evaluate`."
            )


def output_head(model: Any, folder: Path) -> OutputHead:
    """How `model`, built from `folder`, answers.

    Raises ModelError for a head that is more than one linear.
    """
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        outside = [
            (path, module)
            for path, module in model.named_modules()
            if path
            and not path.startswith(f"{model.base_model_prefix}.")
            and not list(module.children())
        ]
        linears = [path for path, module in outside if isinstance(module, nn.Linear)]
        if len(linears) != 1:
            raise ModelError(
                f"The head of {name} is {', '.join(linears) or 'no linear'}: Salient judges a "
                "classifier whose head is one linear."
            )
        return OutputHead("score" if model.config.num_labels == 1 else "labels", linears[0])
    pooled = folder / POOLING
    if model.get_output_embeddings() is None or pooled.is_file():
        settings = read_json(pooled) if pooled.is_file() else {}
        return OutputHead("embedding", mean=bool(settings.get("pooling_mode_mean_tokens")))
    return OutputHead()
