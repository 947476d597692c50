"""A page that shows quantization at work on the checkpoint that is served."""
