"""Replace special linears by nn.Linear: fused experts one by one, GPT-2's Conv1D.

All later code handles nn.Linear only. `places` maps to Transformers' location of each weight.
"""

from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from .expert_modules import ExpertLayout, UnfusedExperts, unfused
from .tracing import numbers
from .weight_map import StoredSlice, TensorPart

FEWEST_OUTPUTS = 8  # a packed word of the formats


def make_plain(blocks: nn.ModuleList, prefix: str) -> dict[str, StoredSlice]:
    """Replace the special linears of `blocks` (on the meta device); returns their weights' places.

    `prefix` is the name of `blocks` in the model. Returns full parameter name -> place.
    """
    places = {}
    for path, module in list(blocks.named_modules()):
        plain, own = _plain(module)
        if plain is None:
            continue
        blocks.set_submodule(path, plain)
        home = f"{prefix}.{path}"
        places |= {
            f"{home}.{name}": StoredSlice(f"{home}.{place.name}", place.part, place.order)
            for name, place in own.items()
        }
    return places


def _plain(module: nn.Module) -> tuple[nn.Module | None, dict[str, StoredSlice]]:
    if isinstance(module, Conv1D):
        inputs, outputs = module.weight.shape
        linear = nn.Linear(inputs, outputs, device="meta", dtype=module.weight.dtype)
        return linear, {"weight": StoredSlice("weight", TensorPart(transposed=True))}
    experts = unfused(module)
    if experts is None:
        return None, {}
    own = {name: _place(experts.layout, name) for name, _ in experts.named_parameters()}
    return experts.to(next(module.parameters()).dtype), own


def _place(layout: ExpertLayout, name: str) -> StoredSlice:
    fused, part = layout.part(name)
    return StoredSlice(fused, part, order=int(layout.gated and ".up_proj." in f".{name}"))


def unfit_linears(block: nn.Module) -> dict[str, str]:
    """The modules of `block` with an unquantized matrix -> reason.

    Routers: one output for each expert. Gates: linears of few outputs. Fused experts that
    no layout reproduces.
    """
    experts = {name: len(m) for name, m in block.named_modules() if isinstance(m, UnfusedExperts)}

    def routes(name: str, outputs: int) -> bool:
        """Whether a module beside experts has an output for each of them."""
        return any(
            outputs == count and name.startswith(home.rpartition(".")[0]) and not numbers(name)
            for home, count in experts.items()
        )

    unfit = {}
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear):
            if routes(name, module.out_features):
                unfit[name] = "a router"
            elif module.out_features < FEWEST_OUTPUTS:
                unfit[name] = f"a gate of {module.out_features} outputs"
            continue
        own = dict(module.named_parameters(recurse=False))
        weight = own.get("weight")
        if isinstance(module, (_ConvNd, nn.Embedding)):
            continue
        if weight is not None and weight.ndim == 2:
            router = routes(name, weight.shape[0])
            unfit[name] = "a router" if router else f"a {type(module).__name__}, no linear"
            continue
        stacks = [parameter for parameter, value in own.items() if _is_stack(value)]
        linears = any(isinstance(part, nn.Linear) for part in module.modules())
        for place in [f"{name}.{stack}" for stack in stacks] if linears else [name][: len(stacks)]:
            unfit[place] = f"of a {type(module).__name__}, whose layout is not known"
    return unfit


def _is_stack(value: nn.Parameter) -> bool:
    """Whether a parameter may hold several matrices; [1, 1, width] is a vector."""
    return value.ndim == 3 and sum(length > 1 for length in value.shape) > 1
