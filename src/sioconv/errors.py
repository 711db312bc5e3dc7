"""The error that a user's input can cause, and the end that a user can ask for."""


class UserError(Exception):
    """Something outside the program is not as it must be: a file, a recipe, an option, the disk.

    The message is one line that says what, where and what to do. The command line prints it without a
    traceback and exits with code 2.
    """


class StoppedError(Exception):
    """A signal asked the program to stop; what it had done is saved, and the same line goes on from there.

    The command line prints the message and exits with code 75, by which a batch system can tell that it must be run
    again (EX_TEMPFAIL in sysexits.h).
    """
