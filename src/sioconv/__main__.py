"""`python -m sioconv` and the command `sioconv`."""

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line; Ctrl-C while its code is still being read ends it in silence."""
    # NumPy's products aren't used, and the threads that they would get are started when NumPy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        os.getcwd()  # noqa: PTH109 - pathlib takes longer to import than this takes
    except OSError:  # libraries in C would end the process with words of their own
        from sioconv.language import translated

        message = translated("the folder that this is started in is gone: change to another with cd")
        print(f"sioconv: {message}", file=sys.stderr)
        sys.exit(2)
    try:
        from sioconv.cli.main import main as run
    except KeyboardInterrupt:
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
