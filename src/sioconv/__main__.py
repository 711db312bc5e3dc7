"""`python -m sioconv` and the command `sioconv`."""

import os
import sys
from typing import NoReturn

TURNS = "10000"  # of spinning: fewer lose time where nothing else runs, more where something does
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def quiet_waiting() -> None:
    """Lets OpenMP's threads spin for a little and then sleep while they wait, unless the user says how they wait.

    By default they spin for long, and where other work has the cores, each takes from the others what these are waiting
    for. The libraries read it when they are loaded, so this comes first. It is GCC's OpenMP that reads this.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = TURNS


def main() -> NoReturn:
    """Runs the command line; Ctrl-C while its code is still being read ends it in silence."""
    # NumPy's products aren't used, and the threads that they would get are started when NumPy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    quiet_waiting()
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
