"""Cleaning: rules for each document, removal of duplicates, the held-out part.

Names are imported when they are first asked for: the settings alone need none of the steps.
"""

from typing import TYPE_CHECKING

from sioconv.lazy import lazy_names

if TYPE_CHECKING:
    from sioconv.data.cleaning.cleaner import Cleaner as Cleaner
    from sioconv.data.cleaning.cleaner import normalise as normalise
    from sioconv.data.cleaning.config import Cleaning as Cleaning
    from sioconv.data.cleaning.config import Normalise as Normalise

_HOMES = {"Cleaner": "cleaner", "normalise": "cleaner", "Cleaning": "config", "Normalise": "config"}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # or a type checker would take any name for one of these
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
