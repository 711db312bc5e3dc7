"""Text and conversations: sources → cleaning → tokenizer → shards → batches."""

from typing import TYPE_CHECKING

from sioconv.lazy import lazy_names

if TYPE_CHECKING:
    from sioconv.data.cleaning import config as cleaning_config

__all__ = ["cleaning_config"]  # where scripts outside look for the settings of cleaning

if not TYPE_CHECKING:  # or a type checker would take any name for this one
    __getattr__, __dir__ = lazy_names(__name__, {"cleaning_config": "cleaning.config"})
