"""Salient: 4-bit AWQ checkpoints that people can trust, and how to run them fast.

The functions live in `salient.api`; importing the package alone imports no torch.
"""

__version__ = "0.1.0"
