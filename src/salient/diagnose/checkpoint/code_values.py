"""Codes that cannot be weights, files whose end is zeros, and zero points against the settings.

Codes are read in bounded samples, so that 40 GB take seconds: a hole smaller than the distance
between two windows can stay unseen. A zero point of 8 in every group is a symmetric weight written
out. Zero points that are off by one, as GPTQ's are, cannot be told from right ones and are not
looked for.
"""

from itertools import takewhile
from pathlib import Path

from salient.core.model_files import StoredTensor
from salient.diagnose.finding import Finding
from salient.diagnose.rule import Place

from .contents import FINDINGS, FLOATS, CheckpointContents, QuantizedLinear, as_json, change, place
from .ct_config import WeightArgs, args_of
from .tensor_reader import TensorReader

WINDOW = 512  # bytes of one sample: 1024 codes
FEW, MANY = 3, 16  # windows of a tensor at first, and where the first ones are suspicious
ZERO_WORD = bytes(4)
MIDDLE = 0x88888888  # eight zero points of 8
SAMPLE = 4096  # bytes of zero points that settle the question for most asymmetric tensors


def _windows(tensor: StoredTensor, count: int) -> list[int]:
    """Offsets of `count` windows over a tensor, the first at its start, the last at its end."""
    last = max(tensor.bytes - WINDOW, 0)
    return sorted({last * i // (count - 1) // 4 * 4 for i in range(count)} | {last})


def zero_tail(tensor: StoredTensor, reader: TensorReader) -> float:
    """The share of a tensor's end that is zeros, by samples: 0.0 none, 1.0 all."""
    spots = _windows(tensor, MANY)
    windows = (reader.read(tensor, spot, WINDOW) for spot in reversed(spots))
    return sum(1 for _ in takewhile(lambda data: not any(data), windows)) / len(spots)


def check_tails(
    contents: CheckpointContents, reader: TensorReader
) -> tuple[set[str], list[Finding]]:
    """Files that end in zeros, as cut downloads do, and the names of the tensors that are lost.

    Biases, buffers and the last rows of an embedding may be zeros, so these alone prove nothing.
    """
    by_file: dict[Path, list[StoredTensor]] = {}
    for tensor in contents.tensors.values():
        if tensor.bytes > 0:
            by_file.setdefault(tensor.path, []).append(tensor)
    dead: set[str] = set()
    places: list[Place] = []
    for path, tensors in by_file.items():
        tail, proof = _tail(contents, sorted(tensors, key=lambda t: -t.start), reader)
        if proof:
            dead |= {tensor.name for tensor in tail}
            start, end = tail[-1].start, max(t.end for t in tail)
            text = f"zeros from about byte {start} to the end at {end}: {len(tail)} tensors"
            places.append((f"{path.name}: {tail[-1].name}", text))
    return dead, FINDINGS["file-zeros"].at(places)


def _tail(
    contents: CheckpointContents, backwards: list[StoredTensor], reader: TensorReader
) -> tuple[list[StoredTensor], bool]:
    """The tensors at a file's end that are zeros, and whether one of them cannot be."""
    packed = contents.packed.values()
    coded = {tensor.name for p in packed for tensor in (p.codes, p.scales) if tensor}
    tail: list[StoredTensor] = []
    proof = False
    for tensor in backwards:
        share = zero_tail(tensor, reader)
        if share < 1:
            if share > 0.1 and tensor.name in coded:
                return [*tail, tensor], True
            break
        tail.append(tensor)
        matrix = tensor.dtype in FLOATS and len(tensor.shape) > 1
        proof |= tensor.name in coded or matrix
    return tail, proof


def check_codes(
    contents: CheckpointContents, reader: TensorReader, dead: set[str]
) -> list[Finding]:
    """Samples of every linear's codes."""
    constant: list[Place] = []
    holes: list[Place] = []
    for linear in contents.in_file_order:
        codes = linear.codes
        if not codes or codes.name in dead or codes.bytes < WINDOW // 8:
            continue
        reader.show_progress("sampling codes", linear.name)
        few = _repeated(codes, FEW, reader)
        if ZERO_WORD not in few and (len(set(few)) > 1 or None in few):
            continue
        many = _repeated(codes, MANY, reader)
        zeros = many.count(ZERO_WORD)
        if len(set(many)) == 1 and many[0] is not None:
            word = int.from_bytes(many[0], "little")
            constant.append((place(codes), f"every word that was read is 0x{word:08x}"))
        elif zeros >= len(many) // 4:
            holes.append((place(codes), f"{zeros} of {len(many)} samples are zeros"))
    return FINDINGS["codes-constant"].at(constant) + FINDINGS["codes-zeros"].at(holes)


def _repeated(tensor: StoredTensor, count: int, reader: TensorReader) -> list[bytes | None]:
    """For each of `count` windows the word that it repeats, None where there are several."""
    windows = [reader.read(tensor, spot, WINDOW) for spot in _windows(tensor, count)]
    return [data[:4] if data == data[:4] * (len(data) // 4) else None for data in windows]


def check_zero_points(
    contents: CheckpointContents, groups: list[WeightArgs], reader: TensorReader, dead: set[str]
) -> list[Finding]:
    """Zero points that contradict the settings. Sets `contents.asymmetric`: any differs from 8."""
    asymmetric: list[QuantizedLinear] = []
    middle: list[QuantizedLinear] = []
    for linear in contents.in_file_order:
        zeros = linear.zeros
        if zeros and zeros.dtype == "I32" and zeros.name not in dead and linear.bits == 4:
            reader.show_progress("reading zero points", linear.name)
            (middle if _all_middle(linear, zeros, reader) else asymmetric).append(linear)
    if contents.method == "awq":
        findings = _undeclared(contents, asymmetric, middle)
    else:
        findings = _unexpected(asymmetric + middle, groups)
    if middle and not asymmetric and not findings:
        text = f"so are those of all {len(middle)} linears"
        findings = FINDINGS["zeros-symmetric"].at(_zero_places(middle[:1], text), count=len(middle))
    if asymmetric or middle or contents.method != "awq":
        contents.asymmetric = bool(asymmetric)
    return findings


def _zero_places(linears: list[QuantizedLinear], text: str = "") -> list[Place]:
    zeros = [linear.zeros for linear in linears if linear.zeros]
    return [(place(tensor), text or as_json(list(tensor.shape))) for tensor in zeros]


def _all_middle(linear: QuantizedLinear, zeros: StoredTensor, reader: TensorReader) -> bool:
    """Whether every zero point is 8; nibbles beyond the last output do not count."""
    import numpy as np

    first = np.frombuffer(reader.read(zeros, 0, SAMPLE), "<u4")
    rows, columns = zeros.shape[-2:] if len(zeros.shape) > 1 else (1, zeros.elements)
    spare = linear.out % 8 if linear.suffixes.shape and linear.out else 0
    last_row = (rows - 1) * columns  # packed along the outputs: only there nibbles can be spare
    if (first[: max(last_row, 0)] != MIDDLE).any():
        return False
    mask = (1 << 4 * spare) - 1 if spare else 0xFFFFFFFF
    for offset, data in reader.pieces(zeros):
        packed = np.frombuffer(data, "<u4")
        cut = max(last_row - offset // 4, 0)
        if (packed[:cut] != MIDDLE).any() or ((packed[cut:] ^ MIDDLE) & mask).any():
            return False
    return True


def _undeclared(
    contents: CheckpointContents, asymmetric: list[QuantizedLinear], middle: list[QuantizedLinear]
) -> list[Finding]:
    """Zero points where AWQ's settings say that there are none."""
    if contents.settings.get("zero_point") is not False:
        return []
    steps = change(contents.where, "zero_point", old=False, new=True)
    if asymmetric:
        return FINDINGS["zero-point-false"].at(
            _zero_places(asymmetric, "zeros other than 8"), steps=steps
        )
    places = [(f"{contents.where}.zero_point", "false")] if middle else []
    return FINDINGS["zero-point-slow"].at(places, steps=steps)


def _unexpected(linears: list[QuantizedLinear], groups: list[WeightArgs]) -> list[Finding]:
    """Zero points where compressed-tensors' settings say symmetric."""
    pairs = [(p, a) for p in linears if (a := args_of(p.name, groups)) and a.symmetric]
    steps: tuple[str, ...] = ()
    for _, args in pairs[:1]:
        old = args.weights.get("symmetric")
        steps = change(f"{args.where}.weights", "symmetric", old, new=False)
    return FINDINGS["zeros-unexpected"].at(_zero_places([p for p, _ in pairs]), steps=steps)
