"""`python -m c2s`: the same as the command `c2s`."""

from c2s.cli import main

if __name__ == "__main__":
    main()
