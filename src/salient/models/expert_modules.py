"""Fused experts as one small MLP each, so that every expert's weights are linears like any other.

Transformers stores the experts of a block as 3-D parameters, `gate_up_proj` and `down_proj`.
Engines need them one by one, and so does calibration: only the tokens routed to an expert reach it.
The layout of a fused module is partly declared by Transformers, partly guessed, and always tested
on a small twin: fused and one by one must give the same output. A module that no layout reproduces
stays unchanged and unquantized.
"""

import contextlib
import copy
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .weight_map import ALL, TensorPart

TWIN_SIZES = (4, 8, 6)  # experts, width and inner channels of the small twin
TWIN_TOKENS = 12
SAME = 1e-5  # relative difference that float32 explains


@dataclass(frozen=True)
class ExpertLayout:
    """How a fused module stores its experts' weights.

    experts, width, inner: how many; channels of the hidden states; channels within an expert
    transposed: [in, out] for each expert, not [out, in]
    interleaved: rows of gate and up alternate, not gate first
    gated: whether there is a gate in addition to up
    biased: whether every linear has a bias
    """

    experts: int
    width: int
    inner: int
    transposed: bool
    interleaved: bool
    gated: bool
    biased: bool

    @property
    def entry(self) -> str:
        """The parameter that reads the hidden states."""
        return "gate_up_proj" if self.gated else "up_proj"

    def part(self, name: str) -> tuple[str, TensorPart]:
        """The slice of the fused module that is e.g. '3.gate_proj.weight' one by one.

        Returns the fused parameter's name, and the part of it.
        """
        number, kind, leaf = name.split(".")
        fused = "down_proj" if kind == "down_proj" else self.entry
        rows = ALL
        if kind != "down_proj" and self.gated:
            second = kind == "up_proj"
            half = (self.inner, None, None) if second else (None, self.inner, None)
            rows = (int(second), None, 2) if self.interleaved else half
        weight = leaf == "weight"
        part = TensorPart(int(number), rows, transposed=self.transposed and weight)
        return (fused if weight else f"{fused}_bias"), part

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the fused module's parameters."""
        rows = self.inner * (2 if self.gated else 1)
        first, last = (rows, self.width), (self.width, self.inner)
        if self.transposed:
            first, last = first[::-1], last[::-1]
        shapes = {self.entry: (self.experts, *first), "down_proj": (self.experts, *last)}
        if self.biased:
            shapes |= {
                f"{self.entry}_bias": (self.experts, rows),
                "down_proj_bias": (self.experts, self.width),
            }
        return shapes


class Expert(nn.Module):
    """One expert: down(act(gate(x), up(x)))."""

    def __init__(self, layout: ExpertLayout, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        if layout.gated:
            self.gate_proj = nn.Linear(layout.width, layout.inner, bias=layout.biased)
        self.up_proj = nn.Linear(layout.width, layout.inner, bias=layout.biased)
        self.down_proj = nn.Linear(layout.inner, layout.width, bias=layout.biased)
        self.how = layout, activation

    def forward(self, x: Tensor) -> Tensor:
        layout, activation = self.how
        up = self.up_proj(x)
        if layout.gated:
            both = (self.gate_proj(x), up)
            up = torch.stack(both, -1).flatten(-2) if layout.interleaved else torch.cat(both, -1)
        return self.down_proj(activation(up))


class UnfusedExperts(nn.ModuleList):
    """All experts of a block, called as the fused module was.

    With `index` and `weights` (int64 and float [tokens, k]): each token goes to the experts of its
    row. Without: `x` [experts * tokens, width] is every expert's input, zeros for tokens that
    are not its own.
    """

    def __init__(self, layout: ExpertLayout, activation: Callable[[Tensor], Tensor]):
        super().__init__(Expert(layout, activation) for _ in range(layout.experts))
        self.how = layout, activation  # in a tuple: an activation may be a module, and no child

    @property
    def layout(self) -> ExpertLayout:
        """How the fused module stores these weights."""
        return self.how[0]

    def forward(
        self, x: Tensor, index: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        out = torch.zeros_like(x)
        if index is None or weights is None:
            for expert, own, into in zip(
                self, x.chunk(len(self)), out.chunk(len(self)), strict=True
            ):
                routed = own.any(-1)
                if bool(routed.any()):
                    into[routed] = expert(own[routed])
            return out
        for number in index.unique().tolist():
            if number < len(self):
                token, slot = torch.where(index == number)
                output = self[number](x[token]) * weights[token, slot, None]
                out.index_add_(0, token, output.to(out.dtype))
        return out


def unfused(fused: nn.Module) -> UnfusedExperts | None:
    """The experts of `fused` one by one, without weights; None if they are of no known form.

    The module may be without weights itself.
    """
    for layout in _layouts(fused):
        activation = _activation(fused, layout)
        if _reproduces(fused, layout, activation):
            with torch.device("meta"):  # all experts of a large model would not fit
                return UnfusedExperts(layout, activation)
    return None


def _layouts(fused: nn.Module) -> list[ExpertLayout]:
    """The layouts that the parameters' names and shapes, and what is declared, leave open."""
    shapes = {name: tuple(p.shape) for name, p in fused.named_parameters(recurse=False)}
    down = shapes.get("down_proj", ())
    if len(down) != 3 or any(True for _ in fused.children() if list(_.parameters())):
        return []
    choices = (_declared(fused, "is_transposed"), _declared(fused, "is_concatenated"))
    layouts = []
    for transposed, concatenated in itertools.product(*choices):
        inner, width = down[1:] if transposed else down[:0:-1]
        gated, biased = "gate_up_proj" in shapes, "down_proj_bias" in shapes
        layout = ExpertLayout(down[0], width, inner, transposed, not concatenated, gated, biased)
        if layout.shapes() == shapes:
            layouts.append(layout)
    return layouts


def _declared(fused: nn.Module, name: str) -> tuple[bool, ...]:
    """A layout's flag by Transformers; both values, likelier first, if it declares none."""
    declared = getattr(fused, name, None)
    usual = name == "is_concatenated"
    return (usual, not usual) if declared is None else (bool(declared),)


def _activation(fused: nn.Module, layout: ExpertLayout) -> Callable[[Tensor], Tensor]:
    if not layout.gated:
        return fused.act_fn  # type: ignore[return-value]
    if hasattr(fused, "_apply_gate"):
        # Bound to a copy without parameters: all else that it needs are settings.
        bare = copy.copy(fused)
        bare._parameters = {}
        return bare._apply_gate  # type: ignore[return-value]
    act: Callable[[Tensor], Tensor] = fused.act_fn  # type: ignore[assignment]
    return _Gated(act)


@dataclass(frozen=True)
class _Gated:
    """act(gate) * up, the usual activation of a gated expert."""

    act: Callable[[Tensor], Tensor]

    def __call__(self, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, -1)
        return self.act(gate) * up


def _reproduces(
    fused: nn.Module, layout: ExpertLayout, activation: Callable[[Tensor], Tensor]
) -> bool:
    """Whether small twins of `fused` and of its experts one by one give the same output.

    The twin of `fused` runs Transformers' own forward, with its sizes where it stores them.
    """
    random = torch.Generator().manual_seed(0)
    sizes: dict[int, int] = {}
    for real, small in zip((layout.experts, layout.width, layout.inner), TWIN_SIZES, strict=True):
        sizes.setdefault(real, small)
    experts, width, inner = (sizes[n] for n in (layout.experts, layout.width, layout.inner))
    small = replace(layout, experts=experts, width=width, inner=inner)
    twin = copy.copy(fused)
    twin.__dict__.update({k: sizes.get(v, v) for k, v in vars(fused).items() if type(v) is int})
    twin._parameters = {
        name: nn.Parameter(torch.randn(shape, generator=random))
        for name, shape in small.shapes().items()
    }
    one_by_one = UnfusedExperts(small, activation)
    for name, parameter in one_by_one.named_parameters():
        whole, part = small.part(name)
        parameter.data.copy_(part.of(twin.get_parameter(whole)))
    forward = inspect.unwrap(type(fused).forward)
    with torch.no_grad(), contextlib.suppress(RuntimeError, ValueError, TypeError, IndexError):
        args = _twin_input(forward, small, random)
        return torch.allclose(one_by_one(*args), forward(twin, *args), rtol=SAME, atol=SAME)
    return False


def _twin_input(
    forward: Callable[..., Tensor], small: ExpertLayout, random: torch.Generator
) -> tuple[Tensor, ...]:
    x = torch.randn(TWIN_TOKENS, small.width, generator=random)
    if len(inspect.signature(forward).parameters) == 2:  # self, and every expert's input
        routed = torch.rand(small.experts, TWIN_TOKENS, 1, generator=random).sub_(0.5).relu_()
        return ((routed * x).flatten(0, 1),)
    scores = torch.rand(TWIN_TOKENS, small.experts, generator=random)
    weights, index = scores.topk(2)
    return x, index, weights
