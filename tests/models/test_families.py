"""The laws that every family keeps, found by watching and proven by folding: no table of them.

What is expected of each family is in tests/helpers/families.py, and in docs/architectures.md.
"""

import copy
import functools
import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.families import FAMILIES, SAMPLED, scaled_and_refused
from helpers.tolerance import model_rounding
from helpers.toy_models import save, tiny_model
from salient.awq.block import quantize_block
from salient.awq.block_statistics import BlockStatistics
from salient.awq.heldout import load_weights
from salient.awq.results import HeldoutInput, OutputTarget, plain_result
from salient.awq.statistics import PlainGatherer
from salient.core.scheme import Scheme
from salient.formats.checkpoint import open_checkpoint
from salient.models.block_call import InputRecorder, run_block
from salient.models.proof import TOLERANCE, ScaleGroup, fold
from salient.models.row_matching import BlockProbe
from salient.models.scale_groups import find_groups
from salient.models.skeleton import Skeleton
from salient.models.tracing import pattern

IDS = torch.randint(3, 250, (2, 24), generator=torch.Generator().manual_seed(2))
CALIBRATION = torch.randint(3, 250, (8, 64), generator=torch.Generator().manual_seed(3))
MANY = torch.randint(3, 250, (8, 32), generator=torch.Generator().manual_seed(4))
FINE = Scheme(group_size=16, bits=8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models on disk, made once."""

    @functools.cache
    def folder(kind: str):
        family = FAMILIES[kind]
        model = tiny_model(kind, vision=family.vision, **family.changes)
        return model, save(model, tmp_path_factory.mktemp(kind), torch.float32)

    return folder


def skeleton_of(folder) -> Skeleton:
    return Skeleton(open_checkpoint(folder), torch.float32, torch.device("cpu"))


class Watched:
    """A tiny model's blocks with their scale groups, found on real hidden states."""

    def __init__(self, folder):
        self.skeleton = skeleton_of(folder)
        hidden, calls = self.skeleton.calls(IDS)
        single = self.skeleton.calls(IDS[0, :, None])[1]
        self.blocks: list[tuple[nn.Module, list[ScaleGroup]]] = []
        for index in range(len(self.skeleton.blocks)):
            block = self.skeleton.block(index)
            probe = BlockProbe(hidden, calls[index], hidden[0, :, None], single[index])
            self.blocks.append((block, find_groups(block, probe)))
            hidden = run_block(block, hidden, calls[index])


@pytest.fixture(scope="module")
def watched(folders):
    """Each family's blocks and groups, found once; tests that change a block copy it."""
    return functools.cache(lambda kind: Watched(folders(kind)[1]))


def streamed(skeleton: Skeleton, blocks: list[nn.Module], ids: Tensor = IDS) -> Tensor:
    """Logits of `blocks` in place of the model's own."""
    hidden, calls = skeleton.calls(ids)
    for block, call in zip(blocks, calls, strict=True):
        hidden = run_block(block, hidden, call)
    return skeleton.logits(ids, hidden)


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def typical(actual: Tensor, expected: Tensor) -> float:
    """The median over tokens of the relative change: a token whose router chose between equals and
    fell to the other side changes much, and says nothing of the rounding."""
    return float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).median())


def agreement(actual: Tensor, expected: Tensor) -> float:
    """How often both have the same most likely token."""
    return float((actual.argmax(-1) == expected.argmax(-1)).float().mean())


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_streamed_model_gives_the_whole_models_logits(kind, folders):
    model, folder = folders(kind)
    skeleton = skeleton_of(folder)
    assert skeleton.unknown_names() == []
    actual = streamed(skeleton, [skeleton.block(i) for i in range(len(skeleton.blocks))])
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
    assert relative(actual, expected) < model_rounding(len(skeleton.blocks))


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_linear_is_in_a_group_that_is_proven_or_says_why_not(kind, watched):
    skeleton, blocks = watched(kind).skeleton, watched(kind).blocks
    for index, (_, groups) in enumerate(blocks):
        readers = [name for group in groups for name in group.readers]
        assert len(readers) == len(set(readers))
        assert set(skeleton.linears(index)) <= set(readers)
        retained = [g for g in groups if g.proven]
        assert all(g.proof_error is not None and g.proof_error < TOLERANCE for g in retained)
        assert all(g.refusal for g in groups if not g.proven)
    actual = scaled_and_refused(groups for _, groups in blocks)
    expected = FAMILIES[kind]
    row = f"tests/helpers/families.py should have: {actual[0]}, refused={actual[1]}"
    assert actual == (expected.scaled, expected.refused), row
    uncalled = [n for _, groups in blocks for g in groups if not g.called for n in g.readers]
    assert not any(".experts." in name for name in uncalled)
    left = {pattern(n) for i in range(len(blocks)) for n in skeleton.unfit(i)}
    assert left | set(uncalled) == set(expected.left), "the field `left` of the family"


@pytest.mark.parametrize("kind", FAMILIES)
def test_folding_random_scales_into_every_group_changes_no_logit(kind, watched):
    skeleton = watched(kind).skeleton
    blocks = [copy.deepcopy(block) for block, _ in watched(kind).blocks]
    expected = streamed(skeleton, blocks)
    random = torch.Generator().manual_seed(5)
    for block, (_, groups) in zip(blocks, watched(kind).blocks, strict=True):
        for group in (g for g in groups if g.proven):
            assert group.rows is not None
            count = len(block.get_parameter(f"{group.absorber}.weight"))
            scale = torch.ones(count)
            scale[group.rows] = (2 ** (torch.rand(count, generator=random) * 2 - 1))[group.rows]
            fold(block, group, scale)
    rounding = 4 * model_rounding(len(blocks))  # scales of 0.5 to 2 make some terms 4 times larger
    assert relative(streamed(skeleton, blocks), expected) < rounding


@pytest.mark.usefixtures("short_search")
@pytest.mark.parametrize("kind", SAMPLED)
def test_fine_rounding_with_awq_agrees_no_worse_than_without(kind, watched):
    """At 8 bits in groups of 16 rounding is small: a scale folded wrongly anywhere would show."""
    skeleton = watched(kind).skeleton
    originals = [skeleton.block(i) for i in range(len(skeleton.blocks))]
    hidden, calls = skeleton.calls(CALIBRATION)
    unseen, unseen_calls = skeleton.calls(IDS)
    versions: dict[str, list[nn.Module]] = {"plain": [], "awq": []}
    for index, (retained, groups) in enumerate(watched(kind).blocks):
        block, unfit = copy.deepcopy(retained), skeleton.unfit(index)
        wanted = {
            n: m
            for n, m in skeleton.linears(index).items()
            if n not in unfit and m.in_features % 16 == 0
        }
        target = OutputTarget(FINE, torch.float16, frozenset(wanted))
        called = [g for g in groups if g.called and target.quantized.intersection(g.readers)]
        built = []

        def pass_(through, _, hidden=hidden, call=calls[index], built=built):
            built.append(through(hidden, call, None))

        stats = BlockStatistics(skeleton.blocks[index], block, called, pass_, PlainGatherer(block))
        with InputRecorder(block, list(stats.inputs)) as recorder:
            after = run_block(block, unseen, unseen_calls[index])
        nothing = {
            n: torch.empty(0, block.get_parameter(f"{n}.weight").shape[1]) for n in stats.inputs
        }
        heldout = {n: HeldoutInput(x) for n, x in (nothing | recorder.inputs).items()}
        parameter = lambda n, block=originals[index]: block.get_parameter(n).detach()  # noqa: E731
        result = quantize_block(block, parameter, called, stats.of, heldout, target)
        for version, of in (("plain", plain_result(result)), ("awq", result)):
            versions[version].append(skeleton.block(index))
            load_weights(versions[version][-1], of)
        hidden, unseen = built[0], after
    expected = streamed(skeleton, originals, MANY)
    plain, awq = (streamed(skeleton, versions[version], MANY) for version in ("plain", "awq"))
    assert typical(awq, expected) < 1.15 * typical(plain, expected)
    assert agreement(awq, expected) > agreement(plain, expected) - 0.05


def test_the_document_of_architectures_is_current():
    """Otherwise run: python tools/write_architectures.py"""
    root = Path(__file__).parents[2]
    tool = runpy.run_path(str(root / "tools" / "write_architectures.py"))
    assert (root / "docs" / "architectures.md").read_text(encoding="utf-8") == tool["document"]()
