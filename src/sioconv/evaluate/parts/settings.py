"""What is measured, and how much of it."""

from dataclasses import dataclass, replace

from sioconv.errors import UserError

PARTS = ("text", "context", "copying", "pairs", "writing", "speed")
OF_TEXT = ("text", "context", "copying", "writing")  # they read text that somebody has written


@dataclass(frozen=True)
class Settings:
    """What `measure` does.

    Args:
        parts: of `PARTS`.
        seed: of everything that is drawn: spans of text, pairs, what is written, bootstrap samples.
        pairs: of each phenomenon.
        samples: texts that are written.
        max_new_tokens: longest of them.
        tasks: of lm-evaluation-harness, by name.
        include: a folder of tasks of one's own, as YAML.
        limit: most documents of a task; None takes all.
        shots: examples before each question; None takes what the task says.
        pfgen: a clone of pfgen-bench; None leaves it out.
        trials: answers to each of its questions.
    """

    parts: tuple[str, ...] = PARTS
    seed: int = 0
    pairs: int = 100
    samples: int = 64
    max_new_tokens: int = 96
    tasks: tuple[str, ...] = ()
    include: str | None = None
    limit: int | None = None
    shots: int | None = None
    pfgen: str | None = None
    trials: int = 1

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise UserError(f"parts: {unknown[0]!r} is none of them: choose from {', '.join(PARTS)}")
        for name, least in (("pairs", 1), ("samples", 1), ("max_new_tokens", 1), ("limit", 1), ("shots", 0),
                            ("trials", 1), ("seed", 0)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} out of range: {value}: give a number from {least} up")

    @property
    def needs_text(self) -> bool:
        """Whether a part of it reads text that somebody has written."""
        return bool(set(OF_TEXT).intersection(self.parts))

    def without_text(self) -> "Settings":
        """The same without the parts that read text."""
        return replace(self, parts=tuple(part for part in self.parts if part not in OF_TEXT))
