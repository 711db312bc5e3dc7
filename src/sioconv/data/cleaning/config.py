"""The recipe's settings for cleaning: one dataclass a step. A step runs only if the recipe names it."""

import math
from dataclasses import dataclass, fields
from typing import Literal


class _Step:
    """A step's settings; all numbers of a step must be finite and not negative."""

    def check(self) -> None:
        """Raises ValueError, naming the field, where a value can't work."""
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise ValueError(f"{item.name}: {value} is negative or not a number")


@dataclass
class Normalise(_Step):
    """Makes spellings of the same character one; never lowercases, and leaves kanji as they are written.

    Args:
        form: NFC keeps what a text looks like, also kanji of names that Unicode's own NFC replaces (U+FA19 for 神);
            NFKC makes full-width letters and digits, half-width kana and ㍍ ordinary besides.
    """

    form: Literal["NFC", "NFKC"] = "NFC"


@dataclass
class Length(_Step):
    """Drops documents that are too short or too long.

    Args:
        least: characters that a document must have.
        most: characters that it may have; null for no limit.
    """

    least: int = 100
    most: int | None = None


@dataclass
class Repetition(_Step):
    """Drops documents that say the same again and again.

    Args:
        lines: largest share of lines that have come before in the document.
        characters: largest share of character 10-grams that have come before in the document.
        run: most times that one character other than space may follow itself, as a share of the document.
    """

    lines: float = 0.3
    characters: float = 0.5
    run: float = 0.1


@dataclass
class Quality(_Step):
    """Drops what isn't running text of the source's language; Japanese is judged by its scripts.

    Args:
        language: least share of letters that are of the language's scripts (kana and kanji for ja, Latin for others).
        kana: for ja, least share of kana among kana and kanji; lists of names and Chinese text have less.
        sentence: most characters for each sentence end.
        markup: largest share of characters that belong to tags, templates, links or code.
        symbols: largest share of characters other than space that are neither letters, digits nor punctuation.
    """

    language: float = 0.3
    kana: float = 0.15
    sentence: float = 500.0
    markup: float = 0.2
    symbols: float = 0.15


@dataclass
class Decontaminate(_Step):
    """Drops documents that hold parts of a text that a model shall be measured on.

    Args:
        path: that text: a file, folder, glob or anything else that a source's path can be.
        ngram: characters that must be the same in a row, spaces and punctuation aside.
        share: share of one of its documents at which the overlap counts.
        characters: characters in all at which it counts, whatever their share.
        text_column: key or column that holds the text.
    """

    path: str = ""
    ngram: int = 24
    share: float = 0.5
    characters: int = 200
    text_column: str = "text"

    def check(self) -> None:
        """Raises ValueError, naming the field, where a value can't work."""
        super().check()
        if not self.path:
            raise ValueError("path is empty: name the text that a model shall be measured on")
        if self.ngram < 1:
            raise ValueError(f"ngram: {self.ngram} is less than 1")


@dataclass
class NearDuplicates(_Step):
    """Drops all but the first of documents that are nearly the same (MinHash over character n-grams).

    Args:
        shingle: characters in an n-gram, spaces and punctuation aside.
        threshold: share of common n-grams (Jaccard) from which two documents count as the same.
    """

    shingle: int = 5
    threshold: float = 0.7

    def check(self) -> None:
        """Raises ValueError, naming the field, where a value can't work."""
        super().check()
        if self.shingle < 1:
            raise ValueError(f"shingle: {self.shingle} is less than 1")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold: {self.threshold} is not above 0 and at most 1")


@dataclass
class Cleaning:
    """The steps that a source's documents go through, in this order; null leaves a step out, {} takes it as it is.

    Args:
        normalise: one spelling for the same character.
        length: too short, too long.
        repetition: the same again and again.
        quality: not running text of the language.
        decontaminate: holds text that a model shall be measured on.
        duplicates: drop all but the first of documents with the same text.
        near_duplicates: drop all but the first of documents with nearly the same text.
    """

    normalise: Normalise | None = None
    length: Length | None = None
    repetition: Repetition | None = None
    quality: Quality | None = None
    decontaminate: Decontaminate | None = None
    duplicates: bool = False
    near_duplicates: NearDuplicates | None = None

    def check(self) -> None:
        """Raises ValueError, naming step and field, where a value can't work."""
        for item in fields(self):
            step = getattr(self, item.name)
            if isinstance(step, _Step):
                try:
                    step.check()
                except ValueError as error:
                    raise ValueError(f"{item.name}.{error}") from error

    @property
    def compares(self) -> bool:
        """Whether documents are compared with each other, for which a source is read twice."""
        return self.duplicates or self.near_duplicates is not None
