"""The small model that comes with the package, so that `sioconv chat` talks right after the installation.

Its folder holds no code of its own, since the package is there; `sioconv publish` makes a folder for others of it.
"""

from pathlib import Path

from sioconv.errors import UserError

NAME = "sioconv-ja-en-7m"


def place_of(name: str | Path) -> str | Path:
    """The package's model where it is named and no folder here has that name; else the name as it is."""
    return packaged_model() if str(name) == NAME and not Path(name).exists() else name


def packaged_model() -> Path:
    """The folder of the package's model. Raises UserError where this copy of the package has none."""
    folder = Path(__file__).parents[1] / "models" / NAME
    if not (folder / "config.json").is_file():
        raise UserError(
            f"this copy of the package has no model ({folder} isn't there): name a model folder or a Hub id"
        )
    return folder
