"""Defines the operator that vLLM's CPU build lacks without AVX-512 (`vllm_cpu_op.py`) in a server.

Python imports this file in every process that has its folder on PYTHONPATH, such as vLLM's worker.
The operator is defined after the import of the worker's module, when vLLM has loaded its own.
"""

import importlib.abc
import importlib.util
import sys
from pathlib import Path

AFTER = "vllm.v1.worker.cpu_worker"


class Once(importlib.abc.MetaPathFinder):
    """Finds the worker's module once, and defines the operator after its import."""

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
                print("interop: 4-bit products by torch, without AVX-512", flush=True)

        spec.loader.exec_module = run_and_supply
        return spec


sys.meta_path.insert(0, Once())
