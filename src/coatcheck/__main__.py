"""`python -m coatcheck` is the `coatcheck` command."""

from coatcheck.cli import main

if __name__ == "__main__":
    main()
