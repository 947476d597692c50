"""Running what was written: load, fuse, generate, measure. Meets `awq` on disk alone."""
