"""The server: OpenAI's API on the embedded engine, or vLLM as a child process."""
