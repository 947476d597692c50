"""The machine that serves: devices, versions, variables."""
