"""The metadata of a model's card (README.md): its front matter for the Hub, read and written.

A checkpoint takes over what stays true of it: licence, languages, task, tags. Cards may be
anybody's: what is not of the expected form is not taken over.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .input_files import open_input
from .model_files import as_list
from .printable import printable
from .records import is_object

CARD = "README.md"
MOST_BYTES = 2**20  # of a card
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_CACHED = re.compile(r"models--(.+?)--(.+)")
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", re.S | re.M)
_WORD = re.compile(r"[A-Za-z0-9][\w.+ -]{0,99}")
_LINK = re.compile(r"[\w./:#?=%+~-]{1,300}")
# The Hub's name of a licence, by its text.
LICENSES = (
    (r"Apache License\s+Version 2\.0", "apache-2.0"),
    (r"\bMIT License\b|Permission is hereby granted, free of charge", "mit"),
    (r"LLAMA 4 COMMUNITY LICENSE", "llama4"),
    (r"LLAMA 3\.3 COMMUNITY LICENSE", "llama3.3"),
    (r"LLAMA 3\.2 COMMUNITY LICENSE", "llama3.2"),
    (r"LLAMA 3\.1 COMMUNITY LICENSE", "llama3.1"),
    (r"META LLAMA 3 COMMUNITY LICENSE", "llama3"),
    (r"LLAMA 2 COMMUNITY LICENSE", "llama2"),
    (r"Gemma Terms of Use", "gemma"),
    (r"GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3", "agpl-3.0"),
    (r"GNU GENERAL PUBLIC LICENSE\s+Version 3", "gpl-3.0"),
    (r"Neither the name of .{0,80}may be used to endorse", "bsd-3-clause"),
    (r"Attribution-NonCommercial 4\.0 International", "cc-by-nc-4.0"),
    (r"Attribution 4\.0 International", "cc-by-4.0"),
)


@dataclass(frozen=True)
class SourceCard:
    """What is known of a source model for the card of its checkpoint.

    base_model: its Hub id, '' if unknown   certain: whether it is that of the very source
    front: keys of the front matter that stay true of the checkpoint
    """

    base_model: str = ""
    certain: bool = False
    front: dict[str, object] | None = None

    @property
    def license(self) -> object:
        return (self.front or {}).get("license")


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """The front matter of a card, {} without a readable one, and the text after it."""
    import yaml

    match = _FRONT.match(text)
    if match is None:
        return {}, text
    try:
        front = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        front = None
    return front if is_object(front) else {}, text[match.end() :]


def join_card(front: dict[str, Any], body: str) -> str:
    """The card with `front` as its front matter, without controls."""
    import yaml

    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    return printable(f"---\n{text}---\n\n{body}")


def read_front(folder: Path) -> dict[str, Any]:
    """The front matter of the card in `folder`, {} without a readable one."""
    try:
        with open_input(folder / CARD) as file:
            return split_card(file.read(MOST_BYTES).decode("utf-8", "replace"))[0]
    except OSError:
        return {}


def read_source_card(folder: Path, config: dict[str, Any]) -> SourceCard:
    """What the model folder says of itself: by its place in the Hub's cache, config.json, card."""
    front = read_front(folder)
    lasting: dict[str, object] = _license(folder, front)
    for key in ("library_name", "pipeline_tag"):
        if _is_word(front.get(key)):
            lasting[key] = front[key]
    for key in ("language", "tags"):
        values = [value for value in _texts(front.get(key)) if _is_word(value)]
        if values:
            lasting[key] = values
    names = [_cached_id(folder), config.get("_name_or_path"), *_texts(front.get("base_model"))]
    ids = [name for name in names if isinstance(name, str) and HUB_ID.fullmatch(name)]
    return SourceCard(ids[0] if ids else "", bool(_cached_id(folder)), lasting)


def _cached_id(folder: Path) -> str:
    """'org/name' of .../models--org--name/snapshots/HASH, '' of other folders."""
    for path in (folder.absolute(), folder.resolve()):
        match = _CACHED.fullmatch(path.parent.parent.name)
        if match and path.parent.name == "snapshots":
            return f"{match[1]}/{match[2]}"
    return ""


def _license(folder: Path, front: dict[str, Any]) -> dict[str, object]:
    """The keys of the licence, from the front matter, else from the text of the licence."""
    files = sorted(
        path.name
        for path in folder.glob("*")
        if re.match(r"(licen[cs]e|copying)", path.name, re.I) and path.is_file()
    )
    named = [text for text in _texts(front.get("license")) if _is_word(text)]
    if named:
        keys: dict[str, object] = {"license": named[0] if len(named) == 1 else named}
        if _is_word(front.get("license_name")):
            keys["license_name"] = front["license_name"]
        link = front.get("license_link")
        if isinstance(link, str) and _LINK.fullmatch(link):
            keys["license_link"] = link
        elif named[0] == "other" and files:
            keys["license_link"] = files[0]
        return keys
    if not files:
        return {}
    with open_input(folder / files[0]) as file:
        text = file.read(MOST_BYTES).decode("utf-8", "replace")
    flat = " ".join(text.split())
    name = next((name for form, name in LICENSES if re.search(form, flat, re.I)), "")
    if name:
        return {"license": name}
    first = re.sub(r"[^a-z0-9.]+", "-", flat[:60].lower()).strip("-.") or "other"
    return {"license": "other", "license_name": first, "license_link": files[0]}


def _texts(value: object) -> list[Any]:
    return as_list(value) or [value]


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(_WORD.fullmatch(value))
