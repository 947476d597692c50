"""How vLLM runs a quantized checkpoint whose matrices are in one format or in several."""

from dataclasses import replace

from salient.plan.vllm.route import Route, ServingTarget, WeightPacking, route
from salient.plan.vllm.types import METHODS, PACES
from salient.shapes.model_shape import ModelShape

from .matrix_formats import MatrixFormat
from .quantization_rules import QuantizationRules


def stored_route(shape: ModelShape, rules: QuantizationRules, target: ServingTarget) -> Route:
    """The slowest route of a checkpoint's formats, under the kernel of most weights."""
    forms = list(rules.weights(shape))
    routes = [_format_route(rules.only(shape, form), form, target) for form in forms]
    if not routes:
        return route(shape, WeightPacking("none"), target)
    slowest = max(routes, key=lambda one: PACES.index(one.pace))
    if len(routes) == 1 or slowest.pace == "refused":
        return slowest
    pairs = zip(forms, routes, strict=True)
    why = "; ".join(f"{form.title} with {one.kernel}: {one.why}" for form, one in pairs)
    do = dict.fromkeys(step for one in routes for step in one.do)
    return replace(slowest, kernel=routes[0].kernel, why=why, do=tuple(do))


def _format_route(shape: ModelShape, form: MatrixFormat, target: ServingTarget) -> Route:
    if form.method in METHODS:
        return route(shape, form.packing, target)
    none = route(shape, WeightPacking("none"), target)  # what stops any model stops this one
    why = f"vLLM reads {form.title}; which kernel runs it is not known here"
    return none if none.pace == "refused" else Route(f"vLLM's {form.method}", "fast", why)
