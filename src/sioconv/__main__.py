"""`python -m sioconv` and the command `sioconv`."""

import os
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line; Ctrl-C while its code is still being read ends it in silence."""
    try:
        from sioconv.cli.main import main as run
    except KeyboardInterrupt:
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
