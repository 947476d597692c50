"""How a config states its rotary positions: the base, the scaling, and where. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

# keys of a config that Transformers 5 has in rope_parameters
_OUTSIDE = ("rope_theta", "partial_rotary_factor")


@dataclass(frozen=True)
class RopeShape:
    """Rotary positions.

    kind: of their scaling, "default" without one; "" where kinds of layers differ
    parameters: as Transformers 5 has them in rope_parameters
    section: the config's part that they are in, "text_config", "" for the config itself
    """

    kind: str = "default"
    parameters: Mapping[str, object] = field(default_factory=dict[str, object])
    section: str = ""

    def number(self, name: str) -> float:
        """A parameter, 0 where it is absent or no number."""
        value = self.parameters.get(name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else 0

    @property
    def scaled_context(self) -> int:
        """Tokens of a YaRN that the config has already, 0 without one."""
        if self.kind != "yarn":
            return 0
        return int(self.number("factor") * self.number("original_max_position_embeddings"))


def read_rope(text: Mapping[str, object], path: str) -> RopeShape:
    """The positions of a text config at `path` ("text_config.")."""
    empty: dict[str, object] = {}
    stated = text.get("rope_parameters") or text.get("rope_scaling") or empty
    if not isinstance(stated, Mapping):
        return RopeShape("", section=path.rstrip("."))
    parameters = dict(cast("Mapping[str, object]", stated))
    kind = parameters.pop("rope_type", parameters.pop("type", "default"))
    parameters.pop("type", None)
    if any(isinstance(value, Mapping) for value in parameters.values()):
        kind = ""
    for key in _OUTSIDE:
        if key not in parameters and text.get(key) is not None:
            parameters[key] = text[key]
    kind = "default" if kind == "mrope" else kind
    return RopeShape(kind if isinstance(kind, str) else "", parameters, path.rstrip("."))
