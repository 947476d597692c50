"""y = x @ W.T over packed codes, several ways: reference, cpu, triton."""
