"""Compare ways to quantize one model on one panel of tokens."""
