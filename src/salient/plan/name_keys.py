"""Names of devices as keys: text without labels, marks and makers; memory sizes in names."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache

from .gpus import Gpu, catalogue

NamedRows = list[tuple[float, Gpu]]

# Words for the maker or kind of a device. They are cut out of names that have lost their spaces,
# so none may be part of another name of the catalogue.
_MAKERS = re.compile(
    "nvidia|geforce|tesla|gtx|rtx|amd|radeon|instinct|rx|intel|arc|apple|tensorcore"
    "|corporation|generation|workstation|edition|datacenter|graphics|gpu"
)
_REPLACED = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r".*\bname='([^']*)'.*", r"\1"),
        (r"\((?:r|tm|c)\)|[®™©]", ""),
        (r"^\d+th gen |\b\d+-core processor\b|( cpu)? @ .*$| w/ .*$", ""),
        (r"\s*\((?:uuid|rev|prog-if)[ :].*$", ""),
        (r"^(?:[a-z0-9 ._/()-]*\b)?(?:name|series|sku|model|product|chip|gpu ?\d*|card ?\d*"
         r"|device ?\d*)\s*[:=]\s*", ""),
        (r"advanced micro devices,? ?(?:inc\.?)?|\[amd/ati\]|\bati\b|\bgrid\b", " "),
        (r"\b(?:mobile|laptop) ?/ ?max-?q\b", "laptop"),
        (r"(?<!pro[ -])(\b\d{4}\b[a-z ]*?)[ -](?:with )?max-?q(?: design)?", r"\1 laptop"),
        (r"\b(?:mobile|notebook)\b", "laptop"),
        (r"sxm\d(?!\d)", "sxm"),
        (r"\bpci-?e(?:xpress)?\b(?: ?(?:gen ?)?[345](?:\.0)?(?![0-9g]))?(?: ?x16)?", "pcie"),
        (r"(?<![a-z0-9])(?:hbm\d?e?|gddr\d+x?|lpddr\d+x?|ddr\d)(?![a-z0-9])", " "),
        (r"\b(?:oam|vf|cards?|gpus|accelerators?|unified|memory|v?ram|lite hash rate|lhr"
         r"|founders|developer kit|devkit|module|soc|chip|in all|total|each"
         r"|(?:with |\+ )?nvlink)\b", " "),
        (r"\b(?:asus|msi|gigabyte|zotac|evga|palit|pny|gainward|inno3d|galax|sapphire|xfx|powercolor"
         r"|asrock|tuf|rog(?: strix)?|suprim|ventus|gaming|trio|aorus|eagle|windforce|trinity|nitro"
         r"|pulse|fe|oc|edition|ws|lambda|runpod|vast(?:\.ai)?|coreweave|paperspace|modal)\b", " "),
        (r"英伟达|显卡|苹果", " "),
        (r"\b(?:macbook (?:pro|air)|mac (?:studio|mini|pro)|imac|macbook)\b", " "),
        (r"\b\d+[ -]?core cpu\b", " "),
        (r"\b(\d+)[ -]?core gpu\b", r"\1-core"),
        (r"\s+", " "),
    )
)  # fmt: skip
SIZE = re.compile(r"(?<![a-z0-9.])(\d{1,6}(?:\.\d{1,3})?) ?(gi?b?|mi?b|ti?b)(?![a-z0-9])", re.A)
_GIB = {"g": 1.0, "m": 1 / 1024, "t": 1024.0}


@lru_cache(2048)
def plain(name: str) -> str:
    """A name in lower case without labels, marks and words that name no device."""
    text = unicodedata.normalize("NFKC", name).lower().translate({0xD7: "x", 0x2013: "-"})
    text = " ".join(text.replace("_", " ").split())
    if brackets := re.findall(r"\[([^\]]+)\]", text.replace("[amd/ati]", "")):
        text = brackets[-1]  # of lspci
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    return text.strip(" '\"+,;|")


def simplified(name: str) -> str:
    """The key of a name: letters and digits, without vendors' words."""
    return _MAKERS.sub("", re.sub("[^a-z0-9]", "", plain(name)))


def token_key(name: str) -> str:
    """The key of a name whatever the order of its parts: "Laptop RTX 4080", "Orin AGX"."""
    tokens = (token for token in re.split("[^a-z0-9]+", plain(name)) if token)
    return " ".join(sorted(token for token in tokens if not _MAKERS.fullmatch(token)))


def gib_of(match: re.Match[str]) -> float:
    return float(match[1]) * _GIB[match[2][0]]


def nominal_size(name: str) -> float:
    """The GB of memory in a name, 0 where it has none."""
    size = SIZE.search(name.lower())
    return gib_of(size) if size else 0.0


def without_size(name: str) -> str:
    size = SIZE.search(name.lower())
    return f"{name[: size.start()]}{name[size.end() :]}".strip() if size else name


@cache
def rows_by_name() -> dict[str, NamedRows]:
    """The devices of each name, and of each name without its memory, with that memory; 0 where the
    name has none."""
    return _index(simplified)


@cache
def rows_by_tokens() -> dict[str, NamedRows]:
    """The same by `token_key`."""
    return _index(token_key)


def _index(key_of: Callable[[str], str]) -> dict[str, NamedRows]:
    index: dict[str, NamedRows] = {}
    for gpu in catalogue():
        for name in (gpu.name, *gpu.aliases):
            row = (nominal_size(name), gpu)
            for key in dict.fromkeys((key_of(without_size(name)), key_of(name))):
                index.setdefault(key, []).append(row)
    return index
