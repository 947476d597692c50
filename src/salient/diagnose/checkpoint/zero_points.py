"""Zero points against what the settings say of them.

A zero of 8 in every group is a symmetric weight written out. Zeros that are off by one, as GPTQ's
are, cannot be told from right ones and are not looked for.
"""

from salient.diagnose.finding import Finding

from .contents import CheckpointContents, QuantizedLinear, change, many, place, said, seen
from .ct_config import WeightArgs, args_of
from .scale_values import in_order
from .tensor_reader import TensorReader

MIDDLE = 0x88888888  # eight zeros of 8
SAMPLE = 4096  # bytes that settle the question for most asymmetric tensors


def check_zeros(
    contents: CheckpointContents, groups: list[WeightArgs], reader: TensorReader, dead: set[str]
) -> list[Finding]:
    """What contradicts the zeros; notes in `contents` whether any differs from 8."""
    asymmetric: list[QuantizedLinear] = []
    middle: list[QuantizedLinear] = []
    for linear in in_order(contents):
        zeros = linear.zeros
        if zeros and zeros.dtype == "I32" and zeros.name not in dead and linear.bits == 4:
            reader.show_progress("reading zero points", linear.name)
            (middle if _all_middle(linear, reader) else asymmetric).append(linear)
    if contents.method == "awq":
        found = _awq(contents, asymmetric, middle)
    else:
        found = _unexpected(asymmetric + middle, groups)
    if middle and not asymmetric and not found:
        found.append(_written_out(contents, middle))
    if asymmetric or middle or contents.method != "awq":
        contents.asymmetric = bool(asymmetric)
    return found


def _all_middle(linear: QuantizedLinear, reader: TensorReader) -> bool:
    """Whether every zero is 8; nibbles beyond the last output do not count."""
    import numpy as np

    zeros = linear.zeros
    assert zeros
    first = np.frombuffer(reader.read(zeros, 0, SAMPLE), "<u4")
    rows, columns = zeros.shape[-2:] if len(zeros.shape) > 1 else (1, zeros.elements)
    spare = linear.out % 8 if linear.suffixes.shape and linear.out else 0
    last_row = (rows - 1) * columns  # packed along the outputs: only there nibbles can be spare
    if (first[: max(last_row, 0)] != MIDDLE).any():
        return False
    mask = (1 << 4 * spare) - 1 if spare else 0xFFFFFFFF
    for offset, data in reader.pieces(zeros):
        words = np.frombuffer(data, "<u4")
        cut = max(last_row - offset // 4, 0)
        if (words[:cut] != MIDDLE).any() or ((words[cut:] ^ MIDDLE) & mask).any():
            return False
    return True


def _awq(
    contents: CheckpointContents, asymmetric: list[QuantizedLinear], middle: list[QuantizedLinear]
) -> list[Finding]:
    if contents.settings.get("zero_point") is not False:
        return []
    steps = change(contents.where, "zero_point", False, True)  # noqa: FBT003
    if asymmetric:
        return [
            Finding(
                "zero-point-false",
                "error",
                f"zero_point is false over zero points in {many(len(asymmetric), 'linear')}",
                matters="Kernels read the codes without their zeros, as if each were 8: vLLM on a "
                "CPU loads the folder and answers with nothing or noise.",
                do=steps,
                evidence=seen(
                    (place(p.zeros), "zeros other than 8") for p in asymmetric if p.zeros
                ),
                count=len(asymmetric),
                rank=20,
            )
        ]
    if not middle:
        return []
    return [
        Finding(
            "zero-point-slow",
            "slow",
            "zero_point is false: vLLM keeps to its slow AWQ kernels",
            matters="Marlin takes 4-bit AWQ with zero points only (marlin_utils.py). The zeros of "
            "8 are in the files, so nothing is lost by saying so.",
            do=steps,
            evidence=seen([(f"{contents.where}.zero_point", "false")]),
        )
    ]


def _unexpected(linears: list[QuantizedLinear], groups: list[WeightArgs]) -> list[Finding]:
    """Zero points where compressed-tensors' settings say symmetric."""
    extra = [p for p in linears if (args := args_of(p.name, groups)) and args.symmetric]
    if not extra:
        return []
    args = args_of(extra[0].name, groups)
    assert args
    return [
        Finding(
            "zeros-unexpected",
            "error",
            f"The settings say symmetric over zero points in {many(len(extra), 'linear')}",
            matters='vLLM has no place for them ("There is no module or parameter named '
            "'...weight_zero_point'\"), and without them most weights are wrong.",
            do=change(f"{args.where}.weights", "symmetric", args.weights.get("symmetric"), False),  # noqa: FBT003
            evidence=seen((place(p.zeros), said(list(p.zeros.shape))) for p in extra if p.zeros),
            count=len(extra),
            rank=20,
        )
    ]


def _written_out(contents: CheckpointContents, middle: list[QuantizedLinear]) -> Finding:
    example = middle[0].zeros
    assert example
    return Finding(
        "zeros-symmetric",
        "note",
        "All zeros are 8: the weights are symmetric, written with zero points",
        evidence=seen([(place(example), f"so are those of all {len(middle)} linears")]),
        count=len(middle),
    )
