"""Run checkpoints: load, fuse, generate, measure."""
