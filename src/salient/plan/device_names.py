"""Devices by the names that people, drivers and clouds give them.

    "4090", "NVIDIA GeForce RTX 4090"        a row of the catalogue
    "2x3090", "H100 x8", "A100:4", "dual 4090"   several of them
    "RTX 4090 48GB", "M3 Max 64GB", "A100-80"    the typed memory counts
    "NVIDIA A100-SXM4-80GB MIG 3g.40gb"      a share of one
    "g5.12xlarge", "a2-highgpu-1g", "DGX H100"   machines.json
    "TPU v5e", "Gaudi 3", "Ascend 910B"      accelerators.json: known, not planned

Case, spaces, dashes and vendors' words are ignored. What is assumed is in the notes.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from salient.core.errors import RequestError

from .gpus import LARGEST, Gpu, catalogue
from .name_keys import (
    SIZE,
    NamedRows,
    gib_of,
    nominal_size,
    plain,
    rows_by_name,
    rows_by_tokens,
    simplified,
    token_key,
    without_size,
)
from .unknown_devices import of_architecture, unknown_message

LONGEST = 160  # characters of a name that are read
MAX_COUNT = 1024
# Memory in a name ("T4 16GB") is the nominal size; drivers show up to a tenth less.
RESERVED = 0.1
# GB of cards that workshops sell with twice the memory: "2x RTX 4090 48GB" has 48 GB each, whereas
# "2x RTX 3090 48GB" has them in all
MODIFIED = {"RTX 2080 Ti": 22, "RTX 3070": 16, "RTX 3080": 20, "RTX 4090": 48, "RTX 4090 D": 48}
LARGEST_MODIFICATION = 4  # times the memory that a card is sold with
SHOWN = 6  # names in a message
SIZES = (*range(2, 9), 10, 11, 12, 16, 20, 22, 24, 32, 40, 48, 64, 72, 80, 94, 96, 128, 141, 144,
         180, 192, 256, 288)  # fmt: skip
APPLE_SIZES = (8, 16, 18, 24, 36, 48, 64, 96, 128, 192, 256, 512)

_BARE_SIZE = re.compile(r"(.*\S)[ _-](\d{1,3})", re.A)
_CONTINUED = re.compile(rf"(?:{SIZE.pattern})$|inc\.|\d+-core ", re.A)
_JOINED_SIZE = re.compile(r"(.*[a-z])(\d{1,3})gi?b?", re.A)
_CORES = re.compile(r"\b\d+-core\b", re.A)
_SLICE = re.compile(r"[ -]*(?:mig[ -]*)?\b([1-7])g\.(\d+)gb\S*", re.A)
_VIRTUAL = re.compile(r"(.*[a-z0-9])-(\d{1,3})[qcba]", re.A)
_NUMERALS = {"one": 1, "single": 1, "two": 2, "dual": 2, "double": 2, "twin": 2, "pair of": 2,
          "three": 3, "triple": 3, "four": 4, "quad": 4, "six": 6, "eight": 8}  # fmt: skip
# (pattern, the group of the number, the groups of the name)
_COUNTS = tuple(
    (re.compile(pattern, re.A), count, names)
    for pattern, count, names in (
        (r"(\d{1,4}) ?[x*] ?(\D.*|\d{4}.*)", 1, (2,)),
        (r"(.+?) ?[x*] ?(\d{1,4})", 2, (1,)),
        (r"(.+?) ?: ?x?(\d{1,4})", 2, (1,)),
        (r"(.+?) ?\(x? ?(\d{1,4}) ?x?\)", 2, (1,)),
        (r"(.+?) (\d{1,3})x", 2, (1,)),
        (r"x ?(\d{1,4}) (.+)", 1, (2,)),
        (r"(\d{1,3}) (.+)", 1, (2,)),
        (r"(\d{1,3})[ -]?(?:gpu|way)s?[ -](.+)", 1, (2,)),
        (r"(.+?)[ -](\d{1,3})[ -]?gpus?", 2, (1,)),
        (r"(.+?) x ?(\d{1,4}) (.+)", 2, (1, 3)),
        (r"(.*?)\b(\d{1,3}) ?[x*] ?(\d{1,3} ?gi?b?\b.*)", 2, (1, 3)),
    )
)  # fmt: skip


@dataclass(frozen=True)
class Device:
    """GPUs of one kind, as they were named.

    count: how many; 1 where no number is named
    notes: what was assumed, or taken from the name instead of the catalogue
    """

    gpu: Gpu
    count: int = 1
    notes: tuple[str, ...] = ()


def find_gpu(name: str) -> Gpu:
    """The device called `name`, whatever their number. Raises RequestError as `find_device`."""
    return find_device(name).gpu


def find_device(name: str) -> Device:
    """The devices called `name`.

    Raises RequestError where the name is unknown, with the most similar ones; where it is of
    several devices; where plan has no figures of such hardware.
    """
    text = plain(name[:LONGEST])
    device = None if len(name) > LONGEST else _machine(text) or _counted(text) or _listed(text)
    if device is None:
        raise RequestError(unknown_message(name[:LONGEST], text))
    if not 1 <= device.count <= MAX_COUNT:
        raise RequestError(f"{name!r} names {device.count} devices. Name 1 to {MAX_COUNT}.")
    return device


def find_devices(names: tuple[str, ...]) -> list[Device]:
    """The devices of a list, each once.

    What a name has after a comma, as the memory in nvidia-smi's lists, belongs to it.
    """
    texts: list[str] = []
    for name in filter(None, (name.strip() for name in names)):
        if texts and (_CONTINUED.match(name.lower())):
            texts[-1] += f" {name}"
        else:
            texts.append(name)
    return list({(one.gpu, one.count): one for one in map(find_device, texts)}.values())


@cache
def _machines() -> tuple[tuple[re.Pattern[str], str], ...]:
    """(pattern of a name, devices) of machines.json."""
    text = Path(__file__).with_name("machines.json").read_text(encoding="utf-8")
    return tuple(
        (re.compile(rf"(?:ml\.)?(?:standard[ _])?(?:{pattern})"), devices)
        for table in json.loads(text).values()
        for pattern, devices in table["machines"].items()
    )


@cache
def _any_machine() -> re.Pattern[str]:
    """Whether one of the patterns matches, in one search."""
    return re.compile("|".join(pattern.pattern for pattern, _ in _machines()))


def _machine(text: str) -> Device | None:
    """The devices of a cloud's instance or of a server, by its name."""
    text = re.sub("^nvidia[ -]", "", text)
    for spelled in filter(_any_machine().fullmatch, (text, text.replace(" ", "_"))):
        for pattern, devices in _machines():
            if match := pattern.fullmatch(spelled):
                device = _counted(plain(match.expand(devices)))
                if device:
                    note = f"{spelled}: {device.count} x {device.gpu.name}"
                    return replace(device, notes=(note,))
    return None


def _counted(text: str) -> Device | None:
    """The devices called `text`, with or without their number."""
    for count, name in _counts(text):
        device = _named(name, count)
        if device:
            return device
    return None


def _counts(text: str) -> Iterator[tuple[int, str]]:
    """The ways to read a number of devices in a name; none first."""
    yield 1, text
    for numeral, count in _NUMERALS.items():
        if match := re.search(rf"(?:^|[ -]){numeral}(?:[ -]|$)", text):
            yield count, f"{text[: match.start()]} {text[match.end() :]}".strip()
    for pattern, count, names in _COUNTS:
        if match := pattern.fullmatch(text):
            yield int(match[count]), " ".join(match[group] for group in names).strip()


def _named(text: str, count: int) -> Device | None:
    """`count` devices called `text`, which may have a memory size or name a part of a device."""
    if (match := _SLICE.search(text)) and (whole := _named(text[: match.start()], count)):
        return replace(whole, gpu=_slice(whole.gpu, int(match[1]), float(match[2])), notes=())
    sizes = [gib_of(match) for match in SIZE.finditer(text)]
    base = SIZE.sub(" ", text) if sizes else text
    size, rows = (sizes[0] if sizes else 0.0), _rows(base)
    if not rows and not sizes:
        rows, size = _rows_of_bare_size(text)
    if not rows and (match := _VIRTUAL.fullmatch(text)):
        rows, size = _rows(match[1]), float(match[2])
    if not rows and (match := _JOINED_SIZE.fullmatch(text)):
        rows, size = _rows(match[1]), float(match[2])
    if not rows or (sizes and not size):
        return None
    if not size and len(sized := {nominal for nominal, _ in rows}) == 1:
        size = sized.pop()  # "rtx4060ti16gb"
    return _sized(simplified(base), rows, size, count)


def _rows(text: str) -> NamedRows:
    """The devices of a name without memory: "3090s" are several 3090, "4080s" is a Super."""
    key, index = simplified(text), rows_by_name()
    forms = [key]
    if key.endswith("s"):
        forms += [f"{key[:-1]}uper" if key.endswith("ss") else f"{key[:-1]}super", key[:-1]]
    if key.endswith("m"):
        forms.append(f"{key[:-1]}laptop")
    if _CORES.search(text):  # one number is of the processor's cores
        forms += [simplified(f"{_CORES.sub('', text)} {one}") for one in _CORES.findall(text)]
        forms.append(simplified(_CORES.sub("", text)))
    rows = next((index[form] for form in forms if form in index), NamedRows())
    return rows or rows_by_tokens().get(token_key(text), [])


def _rows_of_bare_size(text: str) -> tuple[NamedRows, float]:
    """The devices of "A100-80" and "M3 Max 64", and the number where it can only be a memory."""
    match = _BARE_SIZE.fullmatch(text)
    rows = _rows(match[1]) if match else []
    size = float(match[2]) if match else 0.0
    if any(_has(gpu, size) or (gpu.vendor == "apple" and size in APPLE_SIZES) for _, gpu in rows):
        return rows, size
    return [], 0.0


def _is_open(gpu: Gpu) -> bool:
    """Whether the buyer of the computer selects the memory."""
    return gpu.unified or gpu.vendor == "cpu"


def _has(gpu: Gpu, size: float) -> bool:
    """Whether a device of `size` nominal GB shows the memory of `gpu`."""
    return abs(size - gpu.memory) <= RESERVED * size


def _sized(key: str, rows: NamedRows, size: float, count: int) -> Device | None:
    """The row that has `size` GB, else the first with its memory replaced."""
    default = next((row for row in rows if not row[0]), rows[0])[1]
    if not size:
        return Device(default, count, tuple(_assumptions(key, rows, default)))
    matches = [gpu for nominal, gpu in rows if nominal == size]
    matches += [gpu for _, gpu in (*rows, (0, default)) if _has(gpu, size)]
    gpu = matches[0] if matches else default
    if _has(gpu, size) or nominal_size(gpu.name) == size:
        return Device(gpu, count, tuple(_varying(gpu)))
    if count > 1 and _has(gpu, size / count) and size != MODIFIED.get(gpu.name):
        note = f"{size:g} GB taken as the memory of all {count}"
        return Device(gpu, count, (note, *_varying(gpu)))
    if gpu.per_board > 1 and _has(gpu, size / gpu.per_board):
        note = f"{size:g} GB are the memory of the board, which has {gpu.per_board} {gpu.name}"
        return Device(gpu, count * gpu.per_board, (note,))
    return _resized(gpu, size, count)


def _resized(gpu: Gpu, size: float, count: int) -> Device | None:
    """`gpu` with another memory. Raises RequestError for one that it cannot have."""
    most = gpu.memory * (1 + RESERVED) if _is_open(gpu) else gpu.memory * LARGEST_MODIFICATION
    most = LARGEST if gpu.vendor == "cpu" else most
    if not 0.5 <= size <= most:
        whole = round(size / gpu.memory)
        several = f" For {whole} of them write '{whole}x{gpu.name}'." if whole > 1 else ""
        several = "" if _is_open(gpu) else several
        raise RequestError(
            f"No {gpu.name} has {size:g} GB of memory; the catalogue's has {gpu.memory:g} GiB."
            f"{several} --vram {size:g} plans a memory alone."
        )
    shown = next((gpu.memory / one for one in SIZES if one >= gpu.memory * 0.995), 1.0)
    name = f"{without_size(gpu.name)} {size:.4g}GB"
    memory = round(size * min(1.0, shown), 2) if gpu.vendor == "nvidia" else size
    note = f"{size:g} GB of memory as named; the catalogue's {gpu.name} has {gpu.memory:g} GiB"
    notes = () if _is_open(gpu) else (note,)
    resized = replace(gpu, name=name, memory=memory, aliases=())
    return Device(resized, count, (*notes, *_varying(gpu)))


def _slice(gpu: Gpu, sevenths: int, size: float) -> Gpu:
    """A MIG instance: sevenths of the multiprocessors, eighths of the memory and its bandwidth."""
    eighths = 8 if sevenths == 7 else max(1, round(size / gpu.memory * 8))
    return replace(
        gpu,
        name=f"{gpu.name} MIG {sevenths}g.{size:g}gb",
        memory=round(gpu.memory * eighths / 8, 2),
        bandwidth=gpu.bandwidth * eighths / 8,
        tflops=round(gpu.tflops * sevenths / 7, 2),
        fp8_tflops=round(gpu.fp8_tflops * sevenths / 7, 1),
        aliases=(),
    )


def _assumptions(key: str, rows: NamedRows, gpu: Gpu) -> Iterator[str]:
    """What a name without a memory leaves open: the size, the variant."""
    if _is_open(gpu) and not nominal_size(gpu.name):
        why = "a common amount" if gpu.vendor == "cpu" else "the most that it is sold with"
        yield (
            f"{gpu.memory:g} GiB of memory assumed, {why}: "
            f"name yours as '{without_size(gpu.name)} {gpu.memory / 2:.0f}GB'"
        )
    own = rows_by_name()[simplified(without_size(gpu.name))]
    others = {one.name for _, one in (*rows, *own) if one != gpu}
    if simplified(gpu.name) != key:
        others |= {one.name for one in catalogue() if _is_variant(key, one)} - {gpu.name}
    if others:
        yield f"taken as {gpu.name}; there is also {', '.join(sorted(others)[:SHOWN])}"
    if gpu.per_board > 1:
        yield f"one of the {gpu.per_board} GPUs of the board, which is '{gpu.per_board}x{gpu.name}'"
    yield from _varying(gpu)


def _is_variant(key: str, gpu: Gpu) -> bool:
    """Whether a device is named `key` with a form factor or a memory ("H100" and "H100 PCIe")."""
    return bool(
        re.fullmatch(rf"{re.escape(key)}(?:sxm|pcie|nvl|nx|nano)?(?:\d+gb)?", simplified(gpu.name))
    )


def _varying(gpu: Gpu) -> Iterator[str]:
    if gpu.slowest < 1:
        yield (
            "clocks differ from laptop to laptop: the low end of the speed is at "
            f"{gpu.slowest:.0%} of the highest clock"
        )


def _listed(text: str) -> Device | None:
    """The device of a chip's or an architecture's name, or of "RX 7900 XT/7900 XTX".

    Raises RequestError where they are several.
    """
    kinds = [part.strip() for part in re.split(r" ?[+&] ?| and |, ", text)]
    if len(kinds) > 1 and all(map(_counted, kinds)):
        raise RequestError(
            f"{text!r} names devices of several kinds, over which plan splits no model. "
            f"Compare them: --gpu {','.join(kinds)!r}."
        )
    names = [device.gpu for part in text.split("/") if "/" in text and (device := _counted(part))]
    names = list(dict.fromkeys(names)) or of_architecture(text)
    if len(names) > 1:
        raise RequestError(
            f"{text!r} fits several devices: {', '.join(gpu.name for gpu in names[: 2 * SHOWN])}"
            f"{', ...' * (len(names) > 2 * SHOWN)}. Name one of them."
        )
    return Device(names[0]) if names else None
