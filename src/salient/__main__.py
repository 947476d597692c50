"""`python -m salient`."""

from salient.cli import main

main()
