"""vLLM as the engine: located, checked before its start, run as a child process."""
