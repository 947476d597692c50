"""Names: a parameter is called one way inside Transformers and may be called another in the files.

The files keep the names that the model was published under, and engines expect those; Transformers'
own loading rules (renamings, a base prefix that is missing or there once more) lead from one to the
other.
"""

from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from salient.formats.checkpoint import Checkpoint


def stored_names(model: Any, source: Checkpoint) -> dict[str, str]:
    """Parameter or buffer of `model` -> its name in the files of `source`.

    Linears stored as codes count by `.weight`.
    """
    rules = [r for r in get_model_conversion_mapping(model) if isinstance(r, WeightRenaming)]
    wanted = model.state_dict()
    found = {}
    for name in source.parameter_names():
        renamed, _ = rename_source_key(name, rules, [], model.base_model_prefix, wanted)
        target = name if name in wanted else renamed
        if target in wanted:
            found[target] = name
    return found
