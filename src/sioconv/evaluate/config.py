"""The recipe's settings for evaluation."""

from dataclasses import dataclass, field


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
    """

    heldout_bytes: int | None = None
    conversations: int | None = 500
    yardsticks: bool = True
    yardstick_bytes: int = 16_000_000
    questions: int = 20
    max_new_tokens: int = 96
    prompts: list[str] = field(default_factory=lambda: ["宮城県(", "The man"])

    def check(self) -> None:
        """Raises ValueError, naming the field, where the values can't work."""
        for name, least in (
            ("heldout_bytes", 1), ("conversations", 0), ("yardstick_bytes", 0), ("questions", 0), ("max_new_tokens", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: {value} is less than {least}")
