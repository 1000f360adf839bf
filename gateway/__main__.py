"""`python -m gateway` is the same as `quantapay-gateway`."""

from gateway.cli import main

main()
