"""From token ids to text that can be printed at once: whole characters, and never the beginning of a stop string."""

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns bytes that come in pieces into text that can be printed.

    It works on bytes and not through tokenizers' DecodeStream, because that one takes a U+FFFD at the end of a text,
    which a model may have written, for half a character, and because bytes can be kept in a file.

    Args:
        stop: strings to stop before.
        pending: what an earlier stream kept, see `pending`.

    Attributes:
        stopped: whether a stop string was found; nothing may be pushed after that.
    """

    def __init__(self, stop: Sequence[str] = (), pending: bytes = b"") -> None:
        self.stopped = False
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._kept = pending

    def push(self, data: bytes) -> str:
        """The text that has become certain with `data`: whole characters that can't be the beginning of a stop string.

        Bytes that can't be part of any character are given as U+FFFD, as tokenizers' `decode` does.
        """
        text = self._held + self._decoder.decode(self._kept + data)
        self._kept = b""
        if not self._stop:
            return text
        # The stop string that is complete first counts, so that the result doesn't depend on how the text is cut.
        found = [(text.index(s) + len(s), -len(s)) for s in self._stop if s in text]
        if found:
            end, minus_length = min(found)
            self.stopped = True
            self._held = text[end:]
            return text[: end + minus_length]
        cut = len(text) - self._unsure(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """The text that was held back because it might have become a stop string."""
        text, self._held = self._held, ""
        return text

    @property
    def pending(self) -> bytes:
        """Bytes that came and weren't given as text: held back, behind a stop string, or half a character."""
        return self._kept + self._held.encode() + self._decoder.getstate()[0]

    def _unsure(self, text: str) -> int:
        """How many characters at the end of the text may be the beginning of a stop string."""
        longest = min(max(map(len, self._stop)) - 1, len(text))
        tails = (n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in self._stop))
        return next(tails, 0)
