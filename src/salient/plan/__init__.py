"""Before quantizing: will it fit, which kernel runs, how fast. Arithmetic; imports no torch."""
