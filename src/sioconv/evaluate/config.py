"""The recipe's settings for evaluation."""

from dataclasses import dataclass, field

from sioconv.errors import UserError
from sioconv.evaluate.parts.settings import PARTS, Settings


@dataclass
class EvaluateConfig:
    """How a run is measured.

    Args:
        heldout_bytes: most bytes of held-out text read from one source; whole documents; None reads all of it.
        conversations: most held-out conversations read from one source; None reads all of them.
        yardsticks: measure primed xz and the byte 7-gram on the same text.
        yardstick_bytes: most bytes of training text per language that the yardsticks learn from.
        questions: questions asked of each kind (seen, unseen).
        max_new_tokens: longest answer, and longest continuation of a prompt.
        prompts: beginnings that the model continues.
        parts: what else is measured of the finished model, as `sioconv evaluate` does: text, context, pairs, copying,
            writing, speed.
        pairs: minimal pairs of each phenomenon.
        samples: texts that the finished model writes to be measured.
    """

    heldout_bytes: int | None = None
    conversations: int | None = 500
    yardsticks: bool = True
    yardstick_bytes: int = 16_000_000
    questions: int = 20
    max_new_tokens: int = 96
    prompts: list[str] = field(default_factory=lambda: ["宮城県(", "The man"])
    parts: list[str] = field(default_factory=lambda: [part for part in PARTS if part != "speed"])
    pairs: int = 100
    samples: int = 64

    def check(self) -> None:
        """Raises ValueError, naming the field, where the values can't work."""
        for name, least in (
            ("heldout_bytes", 1), ("conversations", 0), ("yardstick_bytes", 0), ("questions", 0), ("max_new_tokens", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: {value} is less than {least}")
        try:
            self.settings()
        except UserError as error:
            raise ValueError(str(error)) from error

    def settings(self, with_text: bool = True) -> Settings:
        """What is measured in parts; `with_text` is whether there is held-out text. Raises UserError for bad values."""
        parts = Settings(tuple(self.parts), 0, self.pairs, self.samples, self.max_new_tokens)
        return parts if with_text else parts.without_text()
