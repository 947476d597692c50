"""Load tests of OpenAI-compatible servers: latency percentiles, throughput, failures by kind."""
