"""Names of a package that are imported when they are first asked for."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package.

    For type checkers and editors the package's file imports the same names where `TYPE_CHECKING` is true.

    Args:
        package: its `__name__`.
        homes: public name → the module of the package that defines it. Where the module itself is meant, the name is
            the module's, with `_` for each dot.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{homes[name]}")
        return module if homes[name].replace(".", "_") == name else getattr(module, name)

    def names() -> list[str]:
        return sorted(homes)

    return get, names
