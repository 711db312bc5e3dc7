"""`python -m sioconv` is `sioconv`."""

from sioconv.cli import main

if __name__ == "__main__":
    main()
