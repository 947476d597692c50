"""Kernels for y = x @ W.T over packed codes: reference, dense, CPU, Triton."""
