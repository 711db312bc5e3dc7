"""How the kernels of the `cpu` backend are compiled, and where the result is kept."""

import functools
import hashlib
import inspect
import logging
import os
import pickle
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps

logger = logging.getLogger("sioconv")

F = TypeVar("F", bound=Callable[..., Any])
# 'contract' allows fused multiply-adds and nothing that would undo the compensation in `advance`.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
_DIGEST_BYTES = hashlib.sha256().digest_size
_said: set[str] = set()


def inner(function: F) -> F:
    """numba.njit for what only other kernels call: always inlined, nothing on disk, no entry for Python."""
    settings = {**_OPTIONS, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast(F, numba.njit(**settings)(function))


def outlined(function: F) -> F:
    """`inner`, but compiled once and called: for long code that several places use."""
    settings = {**_OPTIONS, "forceinline": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast(F, numba.njit(**settings)(function))


def kernel(name: str | None = None, **options: Any) -> Callable[[F], F]:
    """numba.njit with the result kept on disk: in NUMBA_CACHE_DIR, the package folder or the user's cache folder.

    Where it can't be kept, or what is kept is damaged, it is compiled again, and one warning says so.

    Args:
        name: of the kernel's files, where several kernels are made in one place.
        options: numba's.
    """

    def compile_function(function: F) -> F:
        function.__qualname__ = name or function.__qualname__
        dispatcher: Any = numba.njit(**{**_OPTIONS, "no_cfunc_wrapper": True, **options})(function)
        try:
            dispatcher._cache = _KernelCache(dispatcher)
        except (RuntimeError, OSError) as error:  # none of these folders can be written
            _say("any folder", error)
        return cast(F, dispatcher)

    return compile_function


def is_kept(function: Any, *arguments: Any) -> bool:
    """Whether a kernel is compiled for arguments of these types: in this process, or on disk for the next call."""
    types = tuple(function.typeof_pyval(argument) for argument in arguments)
    cache = function._cache
    return types in function.overloads or (isinstance(cache, _KernelCache) and cache.holds(types, function.targetctx))


@functools.cache
def sources_digest() -> str:
    """Of all files of this folder, of which the kernels are compiled, and of numba's version.

    numba compiles again when the file of a kernel changes, and knows nothing of the files that it calls into or takes
    constants from. All files and no list of them: one that is forgotten would leave the machine code of its old text.
    """
    folder = Path(__file__).parent
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(folder.rglob("*.py")):
        text = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}:{len(text)}:".encode() + text)
    return digest.hexdigest()


class _KernelCache(FunctionCache):
    """numba's cache of a kernel, in files of ours; no error of it stops anybody."""

    def __init__(self, dispatcher: Any) -> None:
        super().__init__(dispatcher.py_func)  # type: ignore[no-untyped-call]
        self._dispatcher = dispatcher
        self._cache_file: Any = _KernelFiles(Path(self._cache_path), self._impl.filename_base)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is kept for a signature; None where there is nothing that can be used."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever unpickling and linking make of a strange file
            _say(self._cache_path, error)
            return None

    def holds(self, sig: Any, target_context: Any) -> bool:
        """Whether something can be loaded for a signature."""
        try:
            return self._cache_file.load(self._index_key(sig, target_context.codegen())) is not None
        except Exception:  # `load_overload` will say it
            return False

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keeps a compiled function, where that is possible."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except Exception as error:
            _say(self._cache_path, error)

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        """The signature, the processor, and what the kernel is.

        In numba's own key the kernels around which a function closes count by a number that is drawn anew in every
        process, so that what is kept of such a function is never found again.
        """
        return sig, codegen.magic_tuple(), _origin(self._dispatcher)


def _origin(dispatcher: Any) -> str:
    """Of a kernel's name, options and file, and of what its function closes over: constants, and other kernels."""
    function = dispatcher.py_func
    options = sorted((name, str(value)) for name, value in dispatcher.targetoptions.items())
    digest = hashlib.sha256(repr((function.__module__, function.__qualname__, options)).encode())
    digest.update(Path(inspect.getfile(function)).read_bytes())
    for cell in function.__closure__ or ():
        value = cell.cell_contents
        is_kernel = isinstance(value, Dispatcher)
        digest.update(_origin(value).encode() if is_kernel else dumps(value))  # type: ignore[no-untyped-call]
    return digest.hexdigest()


class _KernelFiles:
    """One file for each signature of a kernel, behind a checksum: its machine code would be run whatever it says.

    numba's own files are an index and numbered data files, without a checksum; two processes can give one number to two
    signatures. A file is a SHA-256 of the rest, what it was compiled from (`_identity`), and a pickle. As a pickle can
    run anything when it is read, one that another user than the superuser may have written isn't read.
    """

    def __init__(self, folder: Path, base: str) -> None:
        self._folder, self._base = folder, base

    def load(self, key: tuple[Any, ...]) -> Any:
        """The data for numba's key, None where there is none or it is of other sources.

        Raises:
            ValueError: the file is damaged, or somebody else's.
            OSError: it can't be read.
        """
        try:
            with open(self._path(key), "rb", opener=_open_at_once) as file:
                _check_file(os.fstat(file.fileno()))
                content = file.read()
        except FileNotFoundError:
            return None
        checksum, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(rest).digest() != checksum:
            raise ValueError("a file is damaged")
        identity, data = rest[:_DIGEST_BYTES], rest[_DIGEST_BYTES:]
        return pickle.loads(data) if identity == _identity(key) else None

    def save(self, key: tuple[Any, ...], data: Any) -> None:
        """Writes the data for numba's key, whole or not at all. Raises OSError where it can't be written."""
        path, rest = self._path(key), _identity(key) + dumps(data)  # type: ignore[no-untyped-call]
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            # Nobody else may write it, whatever the umask: see `_check_file`.
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
                file.write(hashlib.sha256(rest).digest() + rest)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, key: tuple[Any, ...]) -> Path:
        """One for each signature and processor; what is compiled from newer sources replaces what was there."""
        name = hashlib.sha256(repr(key[:2]).encode()).hexdigest()[:16]
        return self._folder / f"{self._base}.{name}.nbc"


def _identity(key: tuple[Any, ...]) -> bytes:
    """What compiled code depends on: the sources, the signature, the processor, the kernel itself."""
    return hashlib.sha256(repr((sources_digest(), key)).encode()).digest()


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file; a pipe in its place, which nobody may ever write to, isn't waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_file(status: os.stat_result) -> None:
    """Raise ValueError for what is no file, or one that others than this user and the superuser can have written."""
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("what stands in the place of a file is none")
    if os.name != "posix":
        return
    if status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError("a file could have been written by another user")


def _say(folder: str, error: Exception) -> None:
    """One warning for each folder."""
    if folder not in _said:
        _said.add(folder)
        logger.warning(
            "scan: compiled kernels can't be kept in %s or read from there (%s), so they are compiled again, which "
            "takes seconds to a minute: if that happens at every start, set NUMBA_CACHE_DIR to a folder of your own",
            folder,
            " ".join(str(error).split())[:200] or type(error).__name__,
        )
