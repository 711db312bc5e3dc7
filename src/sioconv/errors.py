"""The one error that a user's input can cause."""


class UserError(Exception):
    """Something outside the program is not as it must be: a file, a recipe, an option, the disk.

    The message is one line that says what, where and what to do. The command line prints it without a
    traceback and exits with code 2.
    """
