"""What changed in vLLM's choice of kernels, by release, and how to read a release's name.

Releases were read off vLLM's Python files on both sides of a change, from 0.9.2 to 0.32.0; where
the release before was not at hand, the comment names the earliest possible one. 0.8 is known from
issues and logs, 0.33 is taken to choose as 0.32 does. A release is (major, minor).
"""

import re

from salient.core.errors import RequestError

Version = tuple[int, int]

OLDEST: Version = (0, 8)
NEWEST: Version = (0, 32)  # the newest release whose files were read
SUPPORTED: Version = (0, 33)  # the newest release that is taken to follow the same rules
EVER: Version = (1 << 30, 0)
NEVER: Version = (0, 0)

# experts that Marlin refuses fall to moe_wna16; 0.8.5 crashes there (awq_marlin.py, gptq_marlin.py)
FALLBACK_REPORTED: Version = (0, 9)
# AWQ on a CPU by vLLM's own loader (cpu_wna16.py), by Intel's extension before (maybe since 0.10)
CPU_AWQ: Version = (0, 12)
# experts on ROCm fall to moe_wna16; before, they went to Marlin, which ROCm lacks
ROCM_EXPERTS: Version = (0, 13)
# Marlin and the FP8 weight-only Marlin from compute capability 7.5 on, 8.0 before
TURING_MARLIN: Version = (0, 14)
# Intel's extension (ipex_quant.py) is gone for Intel's GPUs too (0.17 may still have it)
NO_XPU_EXTENSION: Version = (0, 16)
# AWQ's fast layers try the list of kernels (so Machete, and ROCm's) instead of Marlin only
AWQ_TRIES_ALL: Version = (0, 19)
# int4 on a CPU with AMX: 8-bit activations where they are bfloat16 (VLLM_CPU_INT4_W4A8)
CPU_W4A8: Version = (0, 20)
# VLLM_BATCH_INVARIANT keeps AWQ from Marlin
BATCH_INVARIANT: Version = (0, 20)
# --quantization humming
HUMMING_METHOD: Version = (0, 20)
# the installation notes ask for compute capability 7.5; those of 0.14 asked for 7.0
TURING_ONLY: Version = (0, 21)
# one class for gptq and gptq_marlin, auto_gptq.py (maybe since 0.21)
AUTO_GPTQ: Version = (0, 22)
# one class for awq and awq_marlin, auto_awq.py: --quantization awq forces nothing any more, odd
# widths are padded for Marlin, and on ROCm AWQ no longer tries the list; GGUF moves to a plugin
# (#39612)
AUTO_AWQ: Version = (0, 24)
# model_loader_extra_config knows enable_weights_track (#41086, not in 0.20.2); before, the loader
# stops at a key that it does not know
TRACKS_WEIGHTS: Version = (0, 21)
# Marlin pads the experts' inner width too
EXPERT_PADDING: Version = (0, 25)
BITSANDBYTES_GONE: Version = (0, 28)
# --quantization mxfp4 quantizes 16-bit weights while they load (its page on online quantization)
ONLINE_MXFP4: Version = (0, 29)
# activation order is refused: in compressed-tensors, then in GPTQ
ORDER_GONE: Version = (0, 30)
GPTQ_ORDER_GONE: Version = (0, 32)
# Humming stands before Marlin on compute capability 9.0 (#56997)
HUMMING_FIRST: Version = (0, 32)

_NAME = re.compile(r"v?(\d+)\.(\d+)(?:\.\d+)*(?:\.?(?:a|b|rc|post|dev)\d+)*(?:\+[0-9a-z.]+)?")


def parse_version(text: str) -> Version:
    """(0, 9) of "0.9.2", "v0.9.2", "0.11.2.post2" or "0.32.0+cu130".

    Raises RequestError for anything else.
    """
    match = _NAME.fullmatch(text.strip().lower())
    if not match:
        raise RequestError(
            f"{text!r} is not a vLLM version. Give one such as {release_name(NEWEST)}.0; "
            "`python -c 'import vllm; print(vllm.__version__)'` prints the installed one."
        )
    return int(match[1]), int(match[2])


def named_release(name: str) -> Version:
    """A release by its constant of this module, "AUTO_AWQ", or as "0.24". Raises KeyError."""
    return globals()[name] if name.isupper() else parse_version(name)


def release_name(version: Version) -> str:
    """ "0.9" of (0, 9)."""
    return f"{version[0]}.{version[1]}"


def version_caveat(version: Version) -> str:
    """What to do where the rules of `version` are not known, "" where they are."""
    if version > SUPPORTED:
        return (
            f"vLLM {release_name(version)} is newer than {release_name(SUPPORTED)}, whose rules "
            "are used here: compare with the log's line 'Using ... for ...LinearMethod'"
        )
    if version < OLDEST:
        return (
            f"upgrade vLLM: {release_name(version)} is older than {release_name(OLDEST)}, whose "
            "rules are used here"
        )
    return ""
