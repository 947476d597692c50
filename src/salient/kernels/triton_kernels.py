"""The Triton programs behind `triton.py`. Importing this module imports triton.

**How a weight lies in memory.** A block is 16 outputs by 64 inputs. It takes 512 bytes: 32 lanes of
8 words, a word being 16 bits that hold four codes. Lane 4 r + c, word 4 h + i, bits 4 p to 4 p + 3
hold the code of output 8 h + r, input 16 p + 4 c + i. That is the order in which a warp's lanes
hold the left operand of a 16-bit tensor-core product, so a lane loads 16 bytes and has what it
multiplies: codes become numbers in registers and never go back through shared memory. Blocks lie
[blocks of inputs, blocks of outputs], so that the programs of one wave read side by side.

**How a product is made.** The weight is the left operand, y^T = W x^T: few rows of x fill the
narrow side of the tensor core, and a single row costs no more instructions than eight. In `narrow`
each warp takes its own slice of the inputs, and the slices are added at the end: a layer of 4096
outputs has work for every multiprocessor without a second launch. `wide` is the usual tiling.

Sums are float32, in an order that depends on nothing but the shapes.

FORM, in every program: (group size, symmetric, type of scales, type of x and y, whether PTX may be
written, whether Triton's interpreter runs it: it has no product of bfloat16).
"""
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportAssignmentType=false
# (the types of Triton's constants are known when a program is compiled)

import triton
import triton.language as tl

# Triton recompiles a program when such a number becomes 1 or a multiple of 16: no gain here.
NOT_SPECIAL = ("rows", "blocks", "groups", "steps")


def _recipe(plane: int, bits: str, one: str, kind: str) -> str:
    """PTX for two codes at once: code | bits is the number 2^k + code, and one fused
    multiply-add subtracts 2^k + zero from it: exact, without a conversion."""
    shift = f"shr.u32 a, $1, {4 * plane};" if plane else "mov.b32 a, $1;"
    return (
        f"{{ .reg .b32 a, o; mov.b32 o, {one}; {shift} "
        f"lop3.b32 a, a, 0x000F000F, {bits}, 0xEA; fma.rn.{kind} $0, a, o, $2; }}"
    )


# 0x6400 is 1024 in float16, 0x4300 is 128 in bfloat16: a code fits below their last bit.
F16 = tl.constexpr(tuple(_recipe(p, "0x64006400", "0x3C003C00", "f16x2") for p in range(4)))
BF16 = tl.constexpr(tuple(_recipe(p, "0x43004300", "0x3F803F80", "bf16x2") for p in range(4)))
# Adding -0.0 changes no product; bf16 has no plain multiplication before compute capability 9.0.
F16_TIMES = tl.constexpr("{ .reg .b32 o; mov.b32 o, 0x80008000; fma.rn.f16x2 $0, $1, $2, o; }")
BF16_TIMES = tl.constexpr("{ .reg .b32 o; mov.b32 o, 0x80008000; fma.rn.bf16x2 $0, $1, $2, o; }")


@triton.jit
def _scale(scale, group, n, padded, SCALE: tl.constexpr):
    """Scales of outputs n in `group`: SCALE. 32 bits a load, the least that can be pipelined."""
    if SCALE.is_fp32():
        value = tl.load(scale + group * padded + n).to(SCALE, bitcast=True)
    else:
        pair = tl.load(scale + group * (padded // 2) + n // 2)
        value = ((pair >> ((n & 1) * 16)) & 0xFFFF).to(tl.int16).to(SCALE, bitcast=True)
    return value


@triton.jit
def _codes(packed, zero, P: tl.constexpr, DTYPE: tl.constexpr, ASM: tl.constexpr):
    """code - zero of plane P of words [R, 16], zero int32 [R, 1 or 16]: DTYPE [R, 16], exact."""
    if ASM:
        if DTYPE.is_fp16():
            less = (zero | 0xE400).to(tl.int16).to(DTYPE, bitcast=True)  # -(1024 + zero)
            recipe: tl.constexpr = F16[P]
        else:
            less = (zero | 0xC300).to(tl.int16).to(DTYPE, bitcast=True)  # -(128 + zero)
            recipe: tl.constexpr = BF16[P]
        less = tl.broadcast_to(less, packed.shape)
        return tl.inline_asm_elementwise(
            recipe, "=r,r,r", [packed, less], less.dtype, is_pure=True, pack=2
        )
    codes = (packed >> (4 * P)).to(tl.int32) & 15
    return (codes - zero).to(tl.float32).to(DTYPE)


@triton.jit
def _times(codes, scale, DTYPE: tl.constexpr, ASM: tl.constexpr):
    """codes * scale, rounded once to DTYPE."""
    if ASM and scale.dtype == DTYPE:
        scale = tl.broadcast_to(scale, codes.shape)
        recipe: tl.constexpr = F16_TIMES if DTYPE.is_fp16() else BF16_TIMES
        return tl.inline_asm_elementwise(
            recipe, "=r,r,r", [codes, scale], codes.dtype, is_pure=True, pack=2
        )
    return (codes.to(tl.float32) * scale.to(tl.float32)).to(DTYPE)


@triton.jit
def _zero(zero, group, n, padded, SYMMETRIC: tl.constexpr):
    """Zeros of outputs n in `group`: int32."""
    if SYMMETRIC:
        return tl.zeros(group.shape, tl.int32) + 8
    return (tl.load(zero + group * (padded // 8) + n // 8) >> ((n & 7) * 4)) & 15


@triton.jit
def _plane(packed, weight, ks, n, P: tl.constexpr, FORM: tl.constexpr, SCALED: tl.constexpr):
    """Plane P of words [R, 16]: inputs 64 ks + 16 P + (0 to 15) of outputs n, DTYPE [R, 16].

    One load of a zero and a scale serves as many planes as the group size allows.
    """
    scale, zero, padded, groups = weight
    GROUP: tl.constexpr = FORM[0]
    # Beyond the width x is 0: there any finite scale will do.
    if GROUP % 16 == 0:
        FIRST: tl.constexpr = 0 if GROUP % 64 == 0 else (P // 2 * 2 if GROUP % 32 == 0 else P)
        group = tl.minimum((ks * 64 + 16 * FIRST) // GROUP, groups - 1)
        z = _zero(zero, group, n, padded, FORM[1])[:, None]
        s = _scale(scale, group, n, padded, FORM[2])[:, None]
    else:
        inputs = (ks * 64 + 16 * P)[:, None] + tl.arange(0, 16)[None, :]
        group = tl.minimum(inputs // GROUP, groups - 1)
        z = _zero(zero, group, n[:, None], padded, FORM[1])
        s = _scale(scale, group, n[:, None], padded, FORM[2])
    codes = _codes(packed, z, P, FORM[3], FORM[4])
    return _times(codes, s, FORM[3], FORM[4]) if SCALED else codes


@triton.jit
def _tile(
    packed, weight, nb, kb, n, ks,
    NB: tl.constexpr, S: tl.constexpr, FORM: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Blocks nb [NB] by kb [S] as the left operand, a row for each output of each of the kb:
    DTYPE [S * NB * 16, 64 in fours].

    n, ks [S * NB * 16]: the output of each row, and the block of inputs that tells its group
    """
    lane = tl.arange(0, 32)[None, None, :, None]
    word = tl.arange(0, 8)[None, None, None, :]
    block = kb[None, :, None, None] * (weight[2] // 16) + nb[:, None, None, None]
    w = tl.load(packed + block * 256 + lane * 8 + word)  # [NB, S, 32, 8]: warps go along S
    w = w.reshape(NB, S, 8, 4, 2, 4).permute(1, 0, 4, 2, 3, 5).reshape(S * NB * 16, 16)
    p0 = _plane(w, weight, ks, n, 0, FORM, SCALED)
    p1 = _plane(w, weight, ks, n, 1, FORM, SCALED)
    p2 = _plane(w, weight, ks, n, 2, FORM, SCALED)
    p3 = _plane(w, weight, ks, n, 3, FORM, SCALED)
    planes = tl.join(tl.join(p0, p2), tl.join(p1, p3))  # [R, 16, high bit of the plane, low bit]
    return planes.permute(0, 2, 3, 1)


@triton.jit
def _dot(w, x, sums, FORM: tl.constexpr):
    """sums + w @ x in float32."""
    if FORM[5]:
        return tl.dot(w.to(tl.float32), x.to(tl.float32), sums, input_precision="ieee")
    return tl.dot(w, x, sums)


@triton.jit(do_not_specialize=NOT_SPECIAL)
def narrow(
    x, packed, scale, zero, y, rows, out, width, padded, blocks, groups, steps,
    FORM: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, S: tl.constexpr,
    KB: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y^T [BN, BM] of one part of the inputs; each of S warps takes a slice of the part.

    Parts are the grid's last axis: y is [parts, rows, out]. A slice has `steps` steps of KB blocks
    of inputs. EVEN: slices hold the width exactly. Where a group spans whole steps, codes are
    multiplied as whole numbers and the sum of the step is scaled: exact, and fewer instructions.
    """
    NB: tl.constexpr = BN // 16
    GROUP: tl.constexpr = FORM[0]
    WHOLE: tl.constexpr = GROUP % (64 * KB) == 0
    part = tl.program_id(2)
    weight = (scale, zero, padded, groups)
    nb = tl.minimum(tl.program_id(0) * NB + tl.arange(0, NB), padded // 16 - 1)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    k = tl.arange(0, 64)
    first = (part * S + tl.arange(0, S)) * steps * KB
    flat = tl.arange(0, S * BN)
    n = tl.minimum(tl.program_id(0) * BN + flat % BN, padded - 1)
    first_of_row = (part * S + flat // BN) * steps * KB
    xs = x + m[None, None, :] * width + k[None, :, None] + first[:, None, None] * 64
    total = tl.zeros((S, BN, BM), tl.float32)
    for step in tl.range(0, steps, num_stages=STAGES):
        sums = total
        if WHOLE:
            sums = tl.zeros((S, BN, BM), tl.float32)
        for b in tl.static_range(KB):
            at = step * KB + b
            kb = tl.minimum(first + at, blocks - 1)
            ks = first_of_row + (step * KB if WHOLE else at)
            w = _tile(packed, weight, nb, kb, n, ks, NB, S, FORM, SCALED=not WHOLE)
            there = m[None, None, :] < rows
            if not EVEN:
                there = there & ((first + at)[:, None, None] * 64 + k[None, :, None] < width)
            v = tl.load(xs + at * 64, mask=there, other=0.0)
            sums = _dot(w.reshape(S, BN, 64), v, sums, FORM)
        if WHOLE:
            group = tl.minimum((first_of_row + step * KB) * 64 // GROUP, groups - 1)
            s = _scale(scale, group, n, padded, FORM[2]).to(tl.float32)
            total += sums * s.reshape(S, BN)[:, :, None]
        else:
            total = sums
    result = tl.sum(total, 0)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    at = (part * rows + m)[None, :].to(tl.int64) * out + n[:, None]
    tl.store(y + at, result.to(y.dtype.element_ty), mask=(m[None, :] < rows) & (n[:, None] < out))


@triton.jit(do_not_specialize=NOT_SPECIAL)
def wide(
    x, packed, scale, zero, y, rows, out, width, padded, blocks, groups, steps,
    FORM: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    ACROSS: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y^T [BN, BM] of one part of the inputs, `steps` blocks; parts as in `narrow`.

    Programs go down ACROSS tiles of rows before the next tile of outputs, so that those that run
    together share weights and x in the L2.
    """
    NB: tl.constexpr = BN // 16
    across, down = tl.cdiv(out, BN), tl.cdiv(rows, BM)
    program, part = tl.program_id(0), tl.program_id(1)
    band = program // (ACROSS * across)
    in_band = min(down - band * ACROSS, ACROSS)
    row_tile = band * ACROSS + program % (ACROSS * across) % in_band
    out_tile = program % (ACROSS * across) // in_band
    weight = (scale, zero, padded, groups)
    nb = tl.minimum(out_tile * NB + tl.arange(0, NB), padded // 16 - 1)
    n = out_tile * BN + tl.arange(0, BN)
    inside = tl.minimum(n, padded - 1)
    m = row_tile * BM + tl.arange(0, BM)
    k = tl.arange(0, 64)
    xs = x + tl.minimum(m, rows - 1)[None, :].to(tl.int64) * width + k[:, None]
    sums = tl.zeros((BN, BM), tl.float32)
    for step in tl.range(0, steps, num_stages=STAGES):
        at = part * steps + step
        kb = tl.minimum(at, blocks - 1)
        ks = tl.zeros((BN,), tl.int32) + at
        w = _tile(
            packed, weight, nb, tl.zeros((1,), tl.int32) + kb, inside, ks, NB, 1, FORM, SCALED=True
        )
        w = w.reshape(BN, 64)
        if EVEN:
            v = tl.load(xs + at * 64)
        else:
            v = tl.load(xs + at * 64, mask=at * 64 + k[:, None] < width, other=0.0)
        sums = _dot(w, v, sums, FORM)
    at = (part * rows + m)[None, :].to(tl.int64) * out + n[:, None]
    tl.store(y + at, sums.to(y.dtype.element_ty), mask=(m[None, :] < rows) & (n[:, None] < out))


@triton.jit
def add(parts, y, count, PARTS: tl.constexpr, SIZE: tl.constexpr):
    """y [count] = the sum of parts float32 [PARTS, count], in order."""
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = at < count
    total = tl.zeros((SIZE,), tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(parts + part * count + at, mask=there, other=0.0)
    tl.store(y + at, total.to(y.dtype.element_ty), mask=there)


@triton.jit
def dequantize(
    packed, scale, zero, w, out, width, padded, blocks, groups, FORM: tl.constexpr, S: tl.constexpr
):
    """The dequantized weight: w [out, width], 16 outputs by 64 S inputs a program."""
    weight = (scale, zero, padded, groups)
    flat = tl.arange(0, S * 16)
    n = tl.program_id(0) * 16 + flat % 16
    first = tl.program_id(1) * S
    nb = tl.program_id(0) + tl.arange(0, 1)
    kb = tl.minimum(first + tl.arange(0, S), blocks - 1)
    tile = _tile(packed, weight, nb, kb, n, first + flat // 16, 1, S, FORM, SCALED=True)
    k = (first + flat // 16)[:, None] * 64 + tl.arange(0, 64)[None, :]
    at = n[:, None].to(tl.int64) * width + k
    tl.store(w + at, tile.reshape(S * 16, 64), mask=(n[:, None] < out) & (k < width))
