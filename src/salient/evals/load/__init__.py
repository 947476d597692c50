"""Load on an OpenAI-compatible server: requests sent, tokens timed, failures counted."""
