"""After: why is it slow or wrong. Logs, settings, checkpoints -> findings. Imports no torch."""
