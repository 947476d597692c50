"""Laws of packing that hold for every format."""

import pytest
import torch

from salient.core.packing import pack_codes, pack_nibbles, unpack_codes, unpack_nibbles
from salient.core.quant import quantize
from salient.core.scheme import Scheme
from salient.formats import FORMATS, load_format


@pytest.mark.parametrize(("rows", "message"), [(1, 1), (3, 1), (1, 5), (4, 7)])
def test_unpacking_is_the_exact_inverse_of_packing(rows, message):
    codes = torch.randint(16, (rows, 8 * message), dtype=torch.uint8)
    assert torch.equal(unpack_nibbles(pack_nibbles(codes)), codes)
    assert torch.equal(unpack_nibbles(pack_nibbles(codes.t().contiguous().t())), codes)


def test_the_first_code_takes_the_lowest_four_bits():
    codes = torch.arange(1, 9, dtype=torch.uint8)[None]
    assert pack_nibbles(codes).item() == 0x87654321 - 2**32


def test_codes_of_eight_bits_are_bytes_the_first_lowest():
    codes = torch.tensor([[1, 2, 3, 255], [0, 128, 7, 9]], dtype=torch.uint8)
    packed = pack_codes(codes, 8)
    assert packed[0].item() == 0xFF030201 - 2**32
    assert torch.equal(unpack_codes(packed, 8), codes)


@pytest.mark.parametrize("name", [row.name for row in FORMATS.values() if row.writers])
def test_packing_and_unpacking_do_not_modify_their_input(name):
    generator = torch.Generator().manual_seed(0)
    weight = quantize(torch.randn(16, 64, generator=generator), Scheme(32), name="layer")
    code = load_format(name)
    before = [t.clone() for t in (weight.codes, weight.scale, weight.zero)]
    tensors = code.pack(weight, torch.float16)
    copies = {suffix: t.clone() for suffix, t in tensors.items()}
    back = code.unpack(tensors, Scheme(32))
    for tensor in (back.codes, back.scale, back.zero):
        tensor.zero_()
    after = (weight.codes, weight.scale, weight.zero)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(torch.equal(tensors[suffix], copies[suffix]) for suffix in tensors)
