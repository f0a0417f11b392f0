"""`python -m i2v`: the command line."""

from i2v.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
