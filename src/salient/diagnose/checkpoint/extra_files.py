"""What lies beside the weights: strays, pickles, files of no length, the tokenizer."""

from pathlib import Path

from salient.core.model_files import INDEX, SINGLE
from salient.diagnose.finding import Finding

from .contents import seen, told
from .weight_files import FETCH, FolderContents

# One of these sets makes a tokenizer (Transformers 5, tokenization files by class; mistral-common).
TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("tekken.json",),
)
PICKLES = (".bin", ".pt", ".pth")


NO_TOKENIZER = Finding(
    "tokenizer-missing",
    "warning",
    "There is no tokenizer",
    matters="Engines refuse the folder unless they are given a tokenizer.",
    do=(
        "Copy tokenizer.json and tokenizer_config.json from the 16-bit model's folder.",
        "Or give them: vllm serve ... --tokenizer MODEL",
    ),
)
PICKLE = Finding(
    "file-pickle",
    "note",
    "Pickles lie beside the safetensors",
    matters="Opening a pickle can run code. Readers that prefer safetensors do not.",
)


def check_beside(folder: Path, held: FolderContents) -> list[Finding]:
    """What else lies in the folder, and what should."""
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    known = {path.name for path in held.paths} | set(held.lost.values())
    strays = [name for name in files if name.endswith(".safetensors") and name not in known]
    whole = any(set(needed) <= set(files) for needed in TOKENIZERS)
    tokenizer = whole or any(name.endswith(".tiktoken") for name in files)
    return [
        *([_strays(strays, indexed=held.indexed)] if strays else []),
        *_empty(files, set(held.lost.values())),
        *told([] if tokenizer else [(folder.name, "no tokenizer.json or the like")], NO_TOKENIZER),
        *told(((name, "a pickle") for name in files if name.endswith(PICKLES)), PICKLE),
    ]


def _empty(files: dict[str, Path], known: set[str]) -> list[Finding]:
    """Files of no length but hidden ones, and but those that were named as damaged."""
    empty = [name for name, path in files.items() if path.stat().st_size == 0 and name[0] != "."]
    empty = [name for name in empty if name not in known]
    finding = Finding(
        "file-empty",
        "error" if any(_read_by_engines(name) for name in empty) else "note",
        "Files of no length",
        matters="A download that was cut leaves them; JSON and weights cannot be read.",
        do=(FETCH,),
        rank=7,
    )
    return told(((name, "0 bytes") for name in empty), finding)


def _read_by_engines(name: str) -> bool:
    return name.endswith((".safetensors", ".json", ".model")) or name in ("vocab.txt", "merges.txt")


def _strays(strays: list[str], *, indexed: bool) -> Finding:
    if SINGLE in strays:
        matters = (
            f"Transformers reads {SINGLE}, vLLM the shards of {INDEX}: two models in one folder."
        )
    elif any(name.startswith("consolidated") for name in strays):
        matters = "vLLM takes consolidated*.safetensors first (load format mistral), others do not."
    elif indexed:
        matters = "Readers leave them alone, but they take disk and memory of whoever copies them."
    else:
        matters = (
            f"vLLM reads every *.safetensors where there is no index, so these on top of {SINGLE}."
        )
    return Finding(
        "file-stray",
        "warning",
        "Safetensors that are no part of the model",
        certainty="likely",
        matters=matters,
        do=(f"Move them away: {' '.join(strays[:8])}",),
        evidence=seen((name, "not named by the index" if indexed else "beside") for name in strays),
        count=len(strays),
        rank=20,
    )
