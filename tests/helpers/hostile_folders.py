"""Hostile model folders: seeded changes of what a stranger's folder holds.

Configs, headers, indexes, tokenizers, templates, side files, links and special files; values are of
wrong types, huge, deep, or escape sequences. What would run code writes the file CANARY.
"""

import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.chat_templates import CHATML
from helpers.families import FAMILIES
from helpers.runs import run
from helpers.toy_models import byte_tokenizer, tiny_model, toy_text

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
    "vision_config", "num_hidden_layers", "hidden_size", "layer_types", "num_experts", "torch_dtype",
    "dtype", "architectures", "model_type", "tokenizer_class", "custom_generate", "id2label",
    "num_labels", "tie_word_embeddings", "vocab_size", "pruned_heads", "chat_template",
    "added_tokens_decoder", "extra_special_tokens", "eos_token_id", "stop_strings", "cache_config",
    "transformers_version", "transformers.js_config", "sliding_window", "_name_or_path", "backend",
    "model_max_length", "compile_config", "watermarking_config", "hidden_act", "num_return_sequences",
)  # fmt: skip
SPECIAL = (
    "fifo", "socket", "folder", "/dev/zero", "/dev/urandom", "/dev/full", "/dev/null", "/dev/stdin",
    "/proc/self/mem", "/proc/kmsg", "/proc/self/environ", "/etc/passwd", "loop", "dangling",
    "outside", "empty", "sparse", "line", "binary", "deep", "utf16", "invalid", "cut", "list",
    "surrogates", "html", "lfs", "root",
)  # fmt: skip
TEMPLATES = (
    "{% for i in range(10**9) %}{% endfor %}", "{{ 'a' * 10**10 }}", "{% for x in", "{{ messages[",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__.os.getcwd() }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{{ raise_exception('\x1b[2J') }}",
    "{{ " + "(" * 3000 + ")" * 3000 + " }}", "{% if true %}" * 2000, "\x00", "", "{{ lipsum(10**6) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ messages | tojson(indent=10**9) }}",
    "{{ '%1000000000d' % 1 }}", "{{ (10**10)**(10**5) }}", "{{ undefined.x.y }}",
)  # fmt: skip


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def base_folders(home: Path) -> dict[str, Path]:
    """Good folders: 16-bit models of several families, one in shards, and two checkpoints."""
    folders: dict[str, Path] = {}
    for kind in ("llama", "qwen3_moe", "gemma3_text", "gpt2"):
        changes = FAMILIES[kind].changes
        folders[kind] = _complete(tiny_model(kind, **changes), home / kind, kind)
    folders["shards"] = _complete(tiny_model(), home / "shards", "llama", max_shard_size="100KB")
    text = toy_text(home)
    for format in ("awq", "compressed-tensors"):
        run(folders["llama"], home / format, text, format=format, device="cpu")
        folders[format] = home / format
    return folders


def _complete(model: Any, folder: Path, kind: str, **options: Any) -> Path:
    """Write a folder with everything that published ones have."""
    model.to(dtype=__import__("torch").float16).save_pretrained(folder, **options)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    (folder / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.7}')
    (folder / "README.md").write_text(f"---\nlicense: mit\ntags: [{kind}]\n---\n# Toy\n")
    (folder / "LICENSE").write_text("MIT License\n")
    return folder


def mutate(folder: Path, chance: random.Random) -> str:
    """Change one thing in `folder`, or two or three; returns what."""
    count = chance.choice((1, 1, 1, 2, 3))
    return "; ".join(chance.choice(MUTATIONS)(folder, chance) for _ in range(count))


def special_file(folder: Path, chance: random.Random) -> str:
    """A file that is no regular file, or whose bytes are of no sense."""
    name = chance.choice((*JSON_FILES, *OTHER_FILES))
    kind = chance.choice(SPECIAL)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    before = path.read_bytes() if path.is_file() and path.stat().st_size < 2**26 else b""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        return f"{name} stays"
    place(path, kind, before)
    return f"{name} is {kind}"


def place(path: Path, kind: str, before: bytes = b"{}") -> None:
    """Make `path` a file of a kind of SPECIAL."""
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            here = os.getcwd()
            os.chdir(path.parent)  # a path of a socket has at most 107 bytes
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(path.name)
            os.chdir(here)
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to("absent")
        case "root":
            path.symlink_to("/")
        case "outside":
            outside = path.parents[1] / f"outside-{path.name}"
            outside.write_bytes(before)
            path.symlink_to(outside)
        case "sparse":
            with path.open("wb") as file:
                file.truncate(20 * 2**30)
        case _ if kind.startswith("/"):
            path.symlink_to(kind)
        case _:
            path.write_bytes(_odd_bytes(kind, before))


def _odd_bytes(kind: str, before: bytes) -> bytes:
    return {
        "empty": lambda: b"",
        "line": lambda: b'{"a": "' + b"a" * 40_000_000 + b'"}',
        "binary": lambda: bytes(range(256)) * 40,
        "deep": lambda: b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        "utf16": lambda: before.decode("utf-8", "replace").encode("utf-16"),
        "invalid": lambda: before.replace(b"e", b"\xff", 3),
        "cut": lambda: before[: len(before) // 2],
        "list": lambda: b"[1, 2]",
        "surrogates": lambda: b'{"\\ud800": "\\udfff", "model_type": "\\ud800"}',
        "html": lambda: b"<!DOCTYPE html><html>",
        "lfs": lambda: b"version https://git-lfs.github.com/spec/v1\nsize 1\n",
    }[kind]()


def json_value(folder: Path, chance: random.Random) -> str:
    """One value, at any depth of any JSON file, is odd, removed or new."""
    paths = [folder / name for name in JSON_FILES]
    files = [path for path in paths if path.is_file() and path.stat().st_size < 2**24]
    if not files:
        return "no JSON file"
    path = chance.choice(files)
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return f"{path.name} stays"
    parent, key = _pick(document, chance)
    if parent is None:
        return f"{path.name} stays"
    odd = chance.randrange(len(ODD))
    way = chance.random()
    if way < 0.15:
        del parent[key]
        what = f"{path.name} {key!r} removed"
    elif way < 0.4 and isinstance(parent, dict):
        key = chance.choice(KEYS)
        parent[key] = ODD[odd]()
        what = f"{path.name} {key!r} new, odd {odd}"
    else:
        parent[key] = ODD[odd]()
        what = f"{path.name} {key!r} is odd {odd}"
    path.write_text(json.dumps(document))
    return what


def _pick(document: Any, chance: random.Random) -> tuple[Any, Any]:
    """A container in `document`, and a key of it."""
    parent, key, value = None, None, document
    while isinstance(value, (dict, list)) and value and (parent is None or chance.random() < 0.7):
        parent = value
        key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        value = parent[key]
    return parent, key


def own_code(folder: Path, chance: random.Random) -> str:
    """Python files that a library might run."""
    names = ("code.py", "configuration_code.py", "modeling.py", "tokenization.py", "setup.py",
             "sitecustomize.py", "yaml.py", "json.py", "conftest.py", "custom_generate/generate.py",
             "safetensors.py", "torch.py", "kernel.py", "__init__.py")  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(CODE)
    (folder / "pytorch_model.bin").write_bytes(_pickle())
    name = chance.choice(("config.json", "tokenizer_config.json", "generation_config.json",
                          "processor_config.json", "adapter_config.json"))  # fmt: skip
    path = folder / name
    try:
        document = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError):
        document = {}
    if not isinstance(document, dict):
        document = {}
    document["auto_map"] = {
        "AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model",
        "AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"], "AutoProcessor": "code.Processor",
    }  # fmt: skip
    if chance.random() < 0.5:
        document |= {"model_type": "unknown-kind", "tokenizer_class": "OwnTokenizer"}
    document["custom_generate"] = "custom_generate"
    if path.is_symlink() or not path.exists() or path.is_file():
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(document))
    return f"own code by {name}"


def _pickle() -> bytes:
    command = f"touch ${CANARY}"
    return f"cposix\nsystem\n(S'{command}'\ntR.".encode()


def header(folder: Path, chance: random.Random) -> str:
    """A header of safetensors that lies, is huge, or is no header."""
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if not files or files[0].stat().st_size > 2**26:
        return "no weights"
    path = chance.choice(files)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    try:
        rows = json.loads(data[8 : 8 + size])
    except ValueError:
        return f"{path.name} stays"
    kind = chance.choice(list(HEADERS))
    name = chance.choice(sorted(set(rows) - {"__metadata__"}) or ["x"])
    text, rest = HEADERS[kind](rows, name, data[8 + size :], chance)
    body = text if isinstance(text, bytes) else json.dumps(text).encode()
    length = chance.choice((10**9, 2**63, 2**64 - 1, 0, 1)) if kind == "length" else len(body)
    path.write_bytes(struct.pack("<Q", length) + body + rest)
    return f"{path.name} header {kind} {name[:40]}"


def _row(change: Callable[[dict[str, Any], random.Random], Any]) -> Callable[..., tuple[Any, bytes]]:
    def changed(rows: Any, name: str, rest: bytes, chance: random.Random) -> tuple[Any, bytes]:
        row = rows.setdefault(name, {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]})
        change(row, chance)
        return rows, rest

    return changed


def _many(count: int) -> Callable[..., tuple[Any, bytes]]:
    def changed(rows: Any, name: str, rest: bytes, chance: random.Random) -> tuple[Any, bytes]:
        empty = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
        return {f"model.layers.{i}.x.weight": empty for i in range(count)} | rows, rest

    return changed


def _renamed(new: str) -> Callable[..., tuple[Any, bytes]]:
    def changed(rows: Any, name: str, rest: bytes, chance: random.Random) -> tuple[Any, bytes]:
        rows[new] = rows.pop(name, {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]})
        return rows, rest

    return changed


HEADERS: dict[str, Callable[..., tuple[Any, bytes]]] = {
    "length": lambda rows, name, rest, chance: (rows, rest),
    "million": _many(1_000_000),
    "thousands": _many(20_000),
    "deep": lambda rows, name, rest, chance: (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", rest),
    "list": lambda rows, name, rest, chance: ([rows], rest),
    "cut": lambda rows, name, rest, chance: (rows, rest[: len(rest) // 2]),
    "more": lambda rows, name, rest, chance: (rows, rest + bytes(1000)),
    "dtype": _row(lambda row, chance: row.update(dtype=chance.choice(ODD)())),
    "type": _row(lambda row, chance: row.update(
        dtype=chance.choice(("F8_E4M3", "I64", "BOOL", "F4", "F64", "U8", "C64")))),
    "shape": _row(lambda row, chance: row.update(shape=chance.choice(ODD)())),
    "shape of": _row(lambda row, chance: row.update(shape=[chance.choice(ODD)()])),
    "zeros": _row(lambda row, chance: row.update(shape=[0, 10**18], data_offsets=[0, 0])),
    "axes": _row(lambda row, chance: row.update(shape=[1] * 100_000)),
    "offsets": _row(lambda row, chance: row.update(data_offsets=chance.choice(ODD)())),
    "end": _row(lambda row, chance: row.update(data_offsets=[0, chance.choice(ODD)()])),
    "row": lambda rows, name, rest, chance: (rows | {name: chance.choice(ODD)()}, rest),
    "metadata": lambda rows, name, rest, chance: (rows | {"__metadata__": chance.choice(ODD)()}, rest),
    "long name": _renamed("model." + "a" * 2_000_000),
    "control name": _renamed("model.layers.0.\x1b[2J\x1b]0;title\x07.weight"),
    "surrogate name": _renamed("model.layers.0.\ud800.weight"),
    "layer": _renamed("model.layers.999999999.mlp.up_proj.weight"),
    "digits": _renamed(f"model.layers.{'9' * 5000}.mlp.up_proj.weight"),
    "parts": _renamed("model." + "a." * 100_000 + "weight"),
    "no tensor": lambda rows, name, rest, chance: ({}, b""),
    "empty name": _renamed(""),
}  # fmt: skip


def index(folder: Path, chance: random.Random) -> str:
    """An index of shards that names what is not there, what is elsewhere, or far too much."""
    path = folder / INDEX
    try:
        files = json.loads(path.read_bytes())["weight_map"] if path.is_file() else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        files = {}
    if not isinstance(files, dict) or not files:
        files = {"model.embed_tokens.weight": WEIGHTS}
    name = chance.choice(sorted(files))
    kinds: dict[str, Callable[[], Any]] = {
        "up": lambda: {name: "../llama/model.safetensors"},
        "absolute": lambda: {name: "/etc/passwd"},
        "odd": lambda: {name: chance.choice(ODD)()},
        "other": lambda: {name: chance.choice((*JSON_FILES, *OTHER_FILES, ".", "..", "a" * 300))},
        "million": lambda: {f"model.layers.{i}.x.weight": WEIGHTS for i in range(10**6)},
        "files": lambda: {f"model.layers.{i}.x.weight": f"{i}.safetensors" for i in range(10**5)},
        "control": lambda: {"\x1b[2J": "\x1b[2J.safetensors"},
    }
    kind = chance.choice(list(kinds))
    document = chance.choice(
        (
            lambda: {"metadata": {"total_size": chance.choice(ODD)()}, "weight_map": files | kinds[kind]()},
            lambda: {"metadata": chance.choice(ODD)(), "weight_map": chance.choice(ODD)()},
            lambda: {"weight_map": kinds[kind]()},
        )
    )()
    if path.is_dir() or path.is_symlink():
        return "index stays"
    path.write_text(json.dumps(document))
    return f"index {kind}"


def tokenizer(folder: Path, chance: random.Random) -> str:
    """A tokenizer that grows, runs for long, or is of another form."""
    path = folder / "tokenizer.json"
    try:
        document = json.loads(path.read_bytes()) if path.is_file() else {}
        document["model"]["vocab"] = document["model"].get("vocab", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "tokenizer stays"
    kind = chance.choice(list(TOKENIZERS))
    try:
        TOKENIZERS[kind](document, chance)
    except (KeyError, TypeError, AttributeError):
        return "tokenizer stays"
    path.write_text(json.dumps(document))
    return f"tokenizer {kind}"


def _steps(steps: list[Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": steps}


def _replace(pattern: Any, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return split


def _token(number: int, text: str, **changes: Any) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, "special": True, **flags, **changes}


def _processor(pieces: list[Any], token: str = "x") -> dict[str, Any]:
    special = {token: {"id": token, "ids": [1] * 1000, "tokens": ["<s>"] * 1000}}
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": special}


_ONE = {"Sequence": {"id": "A", "type_id": 0}}
TOKENIZERS: dict[str, Callable[[Any, random.Random], Any]] = {
    "doubles": lambda t, c: t.update(
        normalizer=_steps([_replace({"String": "a"}, "a" * 10) for _ in range(12)])),
    "doubles e": lambda t, c: t.update(
        normalizer=_steps([_replace({"Regex": "[a-z]"}, "ee") for _ in range(40)])),
    "between": lambda t, c: t.update(
        normalizer=_steps([_replace({"Regex": ""}, "ab") for _ in range(30)])),
    "prepends": lambda t, c: t.update(
        normalizer=_steps([{"type": "Prepend", "prepend": "a" * 10**6} for _ in range(100)])),
    "replacement": lambda t, c: t.update(normalizer=_replace({"String": "e"}, "e" * 10**7)),
    "backtracks": lambda t, c: t.update(pre_tokenizer=_split("(a|a|[a-z ])*(b|[a-z ]|c)*([a-z ]+)*$\\d")),
    "backtracks in the normalizer": lambda t, c: t.update(normalizer=_replace(
        {"Regex": "^(([a-z ])+.)+[A-Z]([a-z])+$"}, "")),
    "pads": lambda t, c: t.update(padding={
        "strategy": {"Fixed": c.choice((10**9, 10**8, 2**62))}, "direction": "Right",
        "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}),
    "pads to a multiple": lambda t, c: t.update(padding={
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 10**9,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}),
    "truncates": lambda t, c: t.update(truncation={
        "direction": "Right", "max_length": c.choice((0, 1, 3, 10**12)), "strategy": "LongestFirst",
        "stride": c.choice((0, 2, 10**9))}),
    "post-processes": lambda t, c: t.update(
        post_processor=_processor([{"SpecialToken": {"id": "x", "type_id": 0}}] * 50_000 + [_ONE])),
    "repeats": lambda t, c: t.update(post_processor=_processor([_ONE] * 100_000)),
    "ids": lambda t, c: t["model"].update(vocab={w: 4 * 10**9 + i for i, w in enumerate("abc")}),
    "far id": lambda t, c: t["added_tokens"].append(_token(4 * 10**9, "<far>")),
    "same ids": lambda t, c: t["model"].update(vocab=dict.fromkeys(t["model"]["vocab"], 5)),
    "added": lambda t, c: t["added_tokens"].extend(_token(300 + i, f"<{i}>") for i in range(100_000)),
    "empty added": lambda t, c: t["added_tokens"].append(_token(300, "")),
    "long added": lambda t, c: t["added_tokens"].append(_token(300, "a" * 5_000_000)),
    "vocabulary": lambda t, c: t["model"]["vocab"].update({f"t{i}": i for i in range(1_500_000)}),
    "unigram": lambda t, c: t.update(model={
        "type": "Unigram", "unk_id": c.choice((0, None, 10**9)),
        "vocab": [["a" * (i % 3000 + 1), -1.0] for i in range(c.choice((0, 3, 20_000)))]}),
    "merges": lambda t, c: t["model"].update(merges=[["a", "b"]] * 100_000),
    "odd merges": lambda t, c: t["model"].update(merges=c.choice(ODD)()),
    "odd vocabulary": lambda t, c: t["model"].update(vocab=c.choice(ODD)()),
    "word level": lambda t, c: t.update(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}),
    "decoder": lambda t, c: t.update(decoder={"type": "Sequence", "decoders": [
        _replace({"String": "a"}, "a" * 1000) for _ in range(5)]}),
    "strips": lambda t, c: t.update(decoder={"type": "Strip", "content": "a", "start": 10**18, "stop": 1}),
    "charsmap": lambda t, c: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "dropout": lambda t, c: t["model"].update(dropout=c.choice((0.5, 2.0, -1, "x"))),
    "no model": lambda t, c: t.pop("model"),
    "odd part": lambda t, c: t.update({c.choice(sorted(t)): c.choice(ODD)()}),
    "many steps": lambda t, c: t.update(normalizer=_steps([{"type": "NFKC"}] * 200_000)),
}  # fmt: skip


def template(folder: Path, chance: random.Random) -> str:
    """A chat template that hangs, grows, reaches out, or does not parse."""
    number = chance.randrange(len(TEMPLATES))
    path = folder / "tokenizer_config.json"
    if chance.random() < 0.6 or not path.is_file():
        path = folder / "chat_template.jinja"
        if path.is_file() or not (path.exists() or path.is_symlink()):
            path.write_text(TEMPLATES[number])
        return f"template {number}"
    try:
        document = json.loads(path.read_bytes())
        document["chat_template"] = chance.choice(
            (TEMPLATES[number], {"default": TEMPLATES[number]}, [TEMPLATES[number]],
             [{"name": "default", "template": TEMPLATES[number]}], [{"name": 1}],
             "{{ 1 }}" * 300_000)
        )  # fmt: skip
    except (ValueError, TypeError, RecursionError):
        return "template stays"
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path.write_text(json.dumps(document))
    return f"template {number} in {path.name}"


def missing(folder: Path, chance: random.Random) -> str:
    """A file that is not there."""
    path = chance.choice(sorted(path for path in folder.iterdir()))
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return f"{path.name} removed"


MUTATIONS: tuple[Callable[[Path, random.Random], str], ...] = (
    json_value, json_value, json_value, special_file, special_file, header, header, index, tokenizer,
    tokenizer, template, own_code, missing,
)  # fmt: skip
