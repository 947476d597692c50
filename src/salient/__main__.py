"""`python -m salient`."""

from salient.cli import app

app()
