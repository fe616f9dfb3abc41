"""`python -m lede`: the same as the `lede` command."""

from lede.cli import main

main()
