"""Seeded single faults of a good checkpoint: how many the integrity stage names with the right
tensor, and false alarms on good checkpoints.

    python benchmarks/damage.py REFERENCE CHECKPOINT [--faults 200] [--good FOLDER ...]

Each fault is tried with salient.json, if there is one, and without. Only the blocks that a fault
touches are compared again.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from salient.core.evidence import EVIDENCE_FILE, find_changed
from salient.core.model_files import SINGLE
from salient.validate.companions.compare import compare_companions
from salient.validate.integrity.measure import WeightComparison
from salient.validate.model_pair import open_pair

Tensors = dict[str, Tensor]
SUFFIXES = {  # format -> codes, scales, zeros
    "awq": ("qweight", "scales", "qzeros"),
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_zero_point"),
}
ONES = 0x11111111  # one in each four bits of an int32


class Faults:
    """Ways to damage `tensors`; each returns the names that a report must have, any of them."""

    def __init__(self, tensors: Tensors, layout: str, chance: random.Random):
        self.tensors, self.chance = tensors, chance
        self.codes, self.scales, self.zeros = SUFFIXES[layout]
        self.layout = layout
        end = f".{self.codes}"
        self.modules = sorted(n.removesuffix(end) for n in tensors if n.endswith(end))

    def scaled(self) -> set[str]:
        module = self.chance.choice(self.modules)
        self.tensors[f"{module}.{self.scales}"] *= 1.02
        return {module}

    def permuted(self) -> set[str]:
        module = self.chance.choice(self.modules)
        scales = self.tensors[f"{module}.{self.scales}"]
        random_order = torch.Generator().manual_seed(self.chance.randrange(2**31))
        order = torch.randperm(scales.numel(), generator=random_order)
        self.tensors[f"{module}.{self.scales}"] = scales.flatten()[order].reshape(scales.shape)
        return {module}

    def zeros_off(self) -> set[str]:
        module = self.chance.choice(self.modules)
        zeros = self.tensors[f"{module}.{self.zeros}"]
        packed = zeros.to(torch.int64) & 0xFFFFFFFF
        low = packed & 0x77777777  # adds one to each nibble without a carry between them
        packed = (low + ONES) ^ (packed & 0x88888888)
        signed = torch.where(packed >= 2**31, packed - 2**32, packed)
        self.tensors[f"{module}.{self.zeros}"] = signed.to(torch.int32)
        return {module}

    def swapped(self) -> set[str]:
        shapes: dict[tuple[int, ...], list[str]] = {}
        for module in self.modules:
            shape = tuple(self.tensors[f"{module}.{self.codes}"].shape)
            shapes.setdefault(shape, []).append(module)
        several = [names for names in shapes.values() if len(names) > 1]
        one, two = self.chance.sample(self.chance.choice(several), 2)
        for suffix in (self.codes, self.scales, self.zeros):
            first, second = f"{one}.{suffix}", f"{two}.{suffix}"
            if first in self.tensors:
                pair = self.tensors[second].clone(), self.tensors[first].clone()
                self.tensors[first], self.tensors[second] = pair
        return {one, two}

    def zeroed(self) -> set[str]:
        module = self.chance.choice(self.modules)
        codes = self.tensors[f"{module}.{self.codes}"]
        codes[self.chance.randrange(len(codes))] = 0
        return {module}

    def norm(self) -> set[str]:
        name = self.chance.choice(sorted(n for n in self.tensors if n.endswith("norm.weight")))
        self.tensors[name] *= 1.01
        return {name}

    def embedding(self) -> set[str]:
        name = next(n for n in self.tensors if n.endswith("embed_tokens.weight"))
        self.tensors[name] *= 1.01
        return {name}


KINDS: tuple[Callable[[Faults], set[str]], ...] = (
    Faults.scaled,
    Faults.permuted,
    Faults.zeros_off,
    Faults.swapped,
    Faults.zeroed,
    Faults.norm,
    Faults.embedding,
)


def compared(
    reference: Path, checkpoint: Path, blocks: list[str] | None = None
) -> WeightComparison:
    """The figures of `blocks`, of all by default."""
    comparison = WeightComparison(open_pair(str(checkpoint), str(reference), "cpu"))
    for index, name in enumerate(comparison.reference.blocks):
        if blocks is None or name in blocks:
            comparison.add_block(index)
    comparison.add_outer()
    return comparison


def merged(good: WeightComparison, changed: WeightComparison, blocks: list[str]) -> list[str]:
    """The damaged tensors of a checkpoint that differs from `good` in `blocks`."""

    def elsewhere(name: str) -> bool:
        return not name.startswith(tuple(f"{block}." for block in blocks))

    fresh = {each.name: each for each in changed.linears}
    folds = {(each.absorber, each.readers): each for each in changed.folds}
    changed.linears = [fresh.get(each.name, each) for each in good.linears]
    changed.folds = [folds.get((each.absorber, each.readers), each) for each in good.folds]
    changed.unequal += [each for each in good.unequal if elsewhere(each.name)]
    return [each.name for each in changed.damaged()]


def companion_fault(folder: Path, chance: random.Random) -> str:
    """Edit the tokenizer or the chat template in `folder`; what was edited."""
    path = folder / chance.choice(["tokenizer.json", "tokenizer_config.json"])
    text = path.read_text(encoding="utf-8")
    if path.name == "tokenizer.json":
        content = json.loads(text)
        content["model"]["merges"].pop(chance.randrange(100))
        text = json.dumps(content)
    path.write_text(text.replace("<|im_start|>", "<|im_begin|>"), encoding="utf-8")
    return path.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--good", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    for folder in options.good:
        names = [each.name for each in compared(options.reference, folder).damaged()]
        print(f"good {folder.name}: {len(names)} false alarms {names[:4]}", flush=True)
    good = compared(options.reference, options.checkpoint)
    layout = good.pair.checkpoint.source.format
    assert layout is not None
    right, without, tried = Counter[str](), Counter[str](), Counter[str]()
    for number in range(options.faults):
        chance = random.Random(options.seed * 10**6 + number)
        tensors = load_file(options.checkpoint / SINGLE)
        faults = Faults(tensors, layout.name, chance)
        kinds = [
            k
            for k in KINDS
            if k is not Faults.zeros_off or faults.modules[0] + f".{faults.zeros}" in tensors
        ]
        kind = kinds[number % len(kinds)] if number % 8 else None
        label = kind.__name__ if kind else "companion"
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "checkpoint"
            shutil.copytree(options.checkpoint, folder)
            wanted = kind(faults) if kind else {companion_fault(folder, chance)}
            if kind:
                contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
                save_file(contiguous, folder / SINGLE, metadata={"format": "pt"})
            tried[label] += 1
            if (folder / EVIDENCE_FILE).exists():
                changed = find_changed(folder)
                names = " ".join([*changed.tensors, *changed.files])
                right[label] += all(name in names for name in wanted)
                (folder / EVIDENCE_FILE).unlink()
            if kind:
                blocks = [b for b in good.reference.blocks if any(f"{b}." in n for n in wanted)]
                named = merged(good, compared(options.reference, folder, blocks), blocks)
                exact = set(named) == wanted
            else:
                pair = open_pair(str(folder), str(options.reference), "cpu")
                named = [each.message for each in compare_companions(pair)]
                exact = bool(named)
            without[label] += exact
            if not exact:
                print(
                    f"missed {number} {label}: wanted {sorted(wanted)}, named {named[:4]}",
                    flush=True,
                )
    for label, count in tried.items():
        print(f"{label:12} {count:4} with evidence {right[label]:4} without {without[label]:4}")
    total = sum(tried.values())
    print(f"all {total}: with {sum(right.values())}, without {sum(without.values())}")


if __name__ == "__main__":
    main()
