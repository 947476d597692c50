"""Codes that cannot be weights: constant tensors, and files whose end is zeros.

Bounded samples are read, so that 40 GB take seconds: a hole smaller than the distance between two
windows can stay unseen.
"""

from pathlib import Path

from salient.core.model_files import StoredTensor
from salient.diagnose.finding import Finding

from .contents import FLOATS, CheckpointContents, many, place, seen
from .scale_values import AGAIN, in_order
from .tensor_reader import TensorReader

WINDOW = 512  # bytes of one sample: 1024 codes
FEW, MANY = 3, 16  # windows of a tensor at first, and where the first ones are suspicious
ZEROS = bytes(4)


def _windows(tensor: StoredTensor, count: int) -> list[int]:
    """Offsets of `count` windows over a tensor, the first at its start, the last at its end."""
    last = max(tensor.end - tensor.start - WINDOW, 0)
    return sorted({last * i // (count - 1) // 4 * 4 for i in range(count)} | {last})


def zero_tail(tensor: StoredTensor, reader: TensorReader) -> float:
    """How much of a tensor's end is zeros, by samples: 0.0 none, 1.0 all."""
    spots = _windows(tensor, MANY)
    zeros = 0
    for spot in reversed(spots):
        if any(reader.read(tensor, spot, WINDOW)):
            break
        zeros += 1
    return zeros / len(spots)


def check_tails(
    contents: CheckpointContents, reader: TensorReader
) -> tuple[set[str], list[Finding]]:
    """Files that end in zeros, as cut downloads do. Returns the names of the tensors that are lost.

    Biases, buffers and the last rows of an embedding may be zeros, so these alone prove nothing.
    """
    by_file: dict[Path, list[StoredTensor]] = {}
    for tensor in contents.tensors.values():
        if tensor.end > tensor.start:
            by_file.setdefault(tensor.path, []).append(tensor)
    dead: set[str] = set()
    places = []
    for path, tensors in by_file.items():
        tail, proof = _tail(contents, sorted(tensors, key=lambda t: -t.start), reader)
        if proof:
            dead |= {tensor.name for tensor in tail}
            start, end = tail[-1].start, max(t.end for t in tail)
            words = f"zeros from about byte {start} to the end at {end}: {len(tail)} tensors"
            places.append((f"{path.name}: {tail[-1].name}", words))
    if not places:
        return dead, []
    return dead, [
        Finding(
            "file-zeros",
            "error",
            f"Zeros at the end of {many(len(places), 'weight file')}",
            matters="A download that reserves its space first and is then cut leaves such a file: "
            "the right length, and nothing in its end.",
            do=(AGAIN,),
            evidence=seen(places),
            count=len(places),
            rank=7,
        )
    ]


def _tail(
    contents: CheckpointContents, backwards: list[StoredTensor], reader: TensorReader
) -> tuple[list[StoredTensor], bool]:
    """The tensors at a file's end that are zeros, and whether one of them cannot be."""
    codes = {p.codes.name for p in contents.packed.values() if p.codes}
    scales = {p.scales.name for p in contents.packed.values() if p.scales}
    tail, proof = [], False
    for tensor in backwards:
        share = zero_tail(tensor, reader)
        if share < 1:
            if share > 0.1 and tensor.name in codes | scales:
                return [*tail, tensor], True
            break
        tail.append(tensor)
        matrix = tensor.dtype in FLOATS and len(tensor.shape) > 1
        proof |= tensor.name in codes | scales or matrix
    return tail, proof


def check_codes(
    contents: CheckpointContents, reader: TensorReader, dead: set[str]
) -> list[Finding]:
    """Samples of every linear's codes."""
    constant, holes = [], []
    for linear in in_order(contents):
        codes = linear.codes
        if not codes or codes.name in dead or codes.end - codes.start < WINDOW // 8:
            continue
        reader.show_progress("sampling codes", linear.name)
        few = _words(codes, FEW, reader)
        if ZEROS not in few and (len(set(few)) > 1 or None in few):
            continue
        many = _words(codes, MANY, reader)
        if len(set(many)) == 1 and many[0] is not None:
            word = int.from_bytes(many[0], "little")
            constant.append((place(codes), f"every word that was read is 0x{word:08x}"))
        elif many.count(ZEROS) >= len(many) // 4:
            holes.append((place(codes), f"{many.count(ZEROS)} of {len(many)} samples are zeros"))
    return _findings(constant, holes)


def _words(tensor: StoredTensor, count: int, reader: TensorReader) -> list[bytes | None]:
    """For each of `count` windows the word that it repeats, None where there are several."""
    found = [reader.read(tensor, spot, WINDOW) for spot in _windows(tensor, count)]
    return [data[:4] if data == data[:4] * (len(data) // 4) else None for data in found]


def _findings(constant: list[tuple[str, str]], holes: list[tuple[str, str]]) -> list[Finding]:
    found = []
    if constant:
        found.append(
            Finding(
                "codes-constant",
                "error",
                f"Codes are one word repeated in {many(len(constant), 'linear')}",
                matters="No weight looks so: the linear was not written, or was written empty.",
                do=(AGAIN,),
                evidence=seen(constant),
                count=len(constant),
                rank=28,
            )
        )
    if holes:
        found.append(
            Finding(
                "codes-zeros",
                "error",
                f"Long runs of zeros in the codes of {many(len(holes), 'linear')}",
                certainty="likely",
                matters="Pieces of the file were never written, as if a parallel download was cut.",
                do=(AGAIN,),
                evidence=seen(holes),
                count=len(holes),
                rank=29,
            )
        )
    return found
