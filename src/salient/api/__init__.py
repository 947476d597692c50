"""The verbs of Salient, with the words of the command line. Wires the floors, computes nothing.

report = quantize("smollm2-135m", "out", scheme="w4-g64")
report = validate("out", reference="smollm2-135m")
model, tokenizer = load("out")
"""

from salient.core.progress import Progress, silent

from .advising import doctor, plan
from .making import inspect, load, quantize
from .measuring import evaluate, load_test, validate
from .running import bench, chat, generate, load_engine
from .serving import serve

__all__ = [
    "Progress",
    "bench",
    "chat",
    "doctor",
    "evaluate",
    "generate",
    "inspect",
    "load",
    "load_engine",
    "load_test",
    "plan",
    "quantize",
    "serve",
    "silent",
    "validate",
]
