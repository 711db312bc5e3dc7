"""What a recipe says about text: where it is, how it is mixed, and how it becomes tokens."""

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class SourceConfig:
    """One source of documents or conversations.

    Args:
        path: a file, folder or glob; `bundled:FILE` for text that ships with the package; `identity:NAME` for turns
            built from the name that the model shall answer to.
        kind: `text` rows are documents, `chat` rows are conversations.
        language: language tag of the source (ja, en).
        weight: share of the mixture's tokens; shares are normalised over the sources.
        licence: licence of the text.
        templated: generated from facts: gets its own line in reports and is left out of its language's total.
    """

    path: str
    kind: Literal["text", "chat"] = "text"
    language: str = "ja"
    weight: float = 1.0
    licence: str = ""
    templated: bool = False


@dataclass
class DataConfig:
    """A mixture of sources.

    Args:
        sources: the sources by name.
        heldout: share of documents held out of training, chosen by the hash of their content.
        tasks: number of tasks that a source is cut into when it is turned into shards.
        workers: processes that work on the tasks; doesn't change the result.
    """

    sources: dict[str, SourceConfig] = field(default_factory=dict)
    heldout: float = 0.03
    tasks: int = 1
    workers: int = 1

    def check(self) -> None:
        """Raises ValueError, naming the field, where the values can't work."""
        if not 0 <= self.heldout < 1:
            raise ValueError(f"heldout: {self.heldout} is not at least 0 and under 1")
        for name in ("tasks", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        for name, source in self.sources.items():
            if not 0 <= source.weight < math.inf:
                raise ValueError(f"sources.{name}.weight: {source.weight} is negative or not a number")
        if self.sources and not any(source.weight for source in self.sources.values()):
            raise ValueError("sources: all weights are 0: give at least one source a share")


@dataclass
class TokenizerConfig:
    """How text is cut into tokens.

    Args:
        path: adopt this tokenizer instead of training one: a folder with tokenizer.json, or owner/name or
            owner/name@revision on the Hugging Face Hub.
        vocab_size: number of tokens of a trained one, special ones included.
        sample_bytes: most bytes of text that it is trained on, of each source its share.
        compare: other tokenizers that the report measures on the same text: rwkv (the package's vocabulary), folders,
            Hub ids, SentencePiece files.
    """

    path: str | None = None
    vocab_size: int = 6144
    sample_bytes: int = 16_000_000
    compare: list[str] = field(default_factory=list)
