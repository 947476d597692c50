"""Hostile model folders: seeded changes of what a stranger's folder holds.

Configs, headers, indexes, tokenizers, templates, side files, links and special files; values are of
wrong types, huge, deep, or escape sequences. What would run code writes the file CANARY.
"""

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from helpers.chat_templates import CHATML
from helpers.families import FAMILIES
from helpers.hostile_tokenizers import template, tokenizer
from helpers.hostile_values import CANARY, CODE, JSON_FILES, KEYS, ODD, OTHER_FILES
from helpers.hostile_weights import header, index
from helpers.runs import run
from helpers.toy_models import byte_tokenizer, tiny_model, toy_text

SPECIAL = (
    "fifo", "socket", "folder", "/dev/zero", "/dev/urandom", "/dev/full", "/dev/null", "/dev/stdin",
    "/proc/self/mem", "/proc/kmsg", "/proc/self/environ", "/etc/passwd", "loop", "dangling",
    "outside", "empty", "sparse", "line", "binary", "deep", "utf16", "invalid", "cut", "list",
    "surrogates", "html", "lfs", "root",
)  # fmt: skip


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
    model.to(torch.float16).save_pretrained(folder, **options)
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
        key = (
            chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        )
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


def missing(folder: Path, chance: random.Random) -> str:
    """A file that is not there."""
    path = chance.choice(sorted(path for path in folder.iterdir()))
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return f"{path.name} removed"


MUTATIONS: tuple[Callable[[Path, random.Random], str], ...] = (
    json_value, json_value, json_value, special_file, special_file, header, header, index,
    tokenizer, tokenizer, template, own_code, missing,
)  # fmt: skip
