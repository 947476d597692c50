"""vLLM as the engine: found, checked before it starts, started as a child, watched, ended."""
