"""`python -m deepground` is the command line."""

from deepground.cli import main

main()
