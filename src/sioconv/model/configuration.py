"""The model's configuration as transformers wants it."""

from dataclasses import fields
from importlib import import_module  # in the package only
from os import PathLike  # in the package only
from pathlib import Path  # in the package only
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PretrainedConfig

from sioconv.checksums import SUMS  # in the package only
from sioconv.model.architecture import Architecture
from sioconv.model.folder_code import write_code  # in the package only


def takes_whole_numbers(kind: type[PretrainedConfig]) -> type[PretrainedConfig]:
    """Makes 1 as good as 1.0: `strict` refuses it, and tools in other languages write the one for the other in JSON."""
    set_strictly: Any = kind.__setattr__
    numbers = {field.name for field in fields(kind) if field.type in (float, float | None)}

    def set_attribute(self: Any, name: str, value: Any) -> None:
        set_strictly(self, name, float(value) if type(value) is int and name in numbers else value)

    kind.__setattr__ = set_attribute  # type: ignore[method-assign]
    return kind


@takes_whole_numbers
@strict
class SioConvConfig(Architecture, PretrainedConfig):  # type: ignore[no-untyped-call]
    """Configuration of `SioConvForCausalLM`: the fields of `Architecture` and the vocabulary.

    Args:
        vocab_size: number of rows of the embedding and of the head.
        tokenizer_fingerprint: hash of the vocabulary that the model was trained with; a folder whose tokenizer has
            another one is refused.

    Raises:
        ValueError: a size or option can't be built.
    """

    model_type = "sioconv"
    keys_to_ignore_at_inference = ["cache"]  # noqa: RUF012  # Trainer adds a list to it

    vocab_size: int = 6144
    tokenizer_fingerprint: str | None = None
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # The code of the folder that it came from: these classes don't run it, and what they save has its own.
        kwargs.pop("auto_map", None)  # in the package only
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        Architecture.check(self)
        if not hasattr(self, "auto_map"):  # TRL reads it of every model whose class isn't one of transformers' own
            self.auto_map: dict[str, str] = {}
        # The Auto classes look a model's class up by its configuration: this is the first moment that they can need it.
        # Earlier, while the Auto classes are being imported, not all of transformers that it takes can be imported.
        import_module("sioconv.model.causal_lm")  # in the package only

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds: every field, and the places of code in the folder if there are any."""
        values: dict[str, Any] = super().to_dict()
        if not values.get("auto_map"):
            values.pop("auto_map", None)
        return values

    def save_pretrained(  # in the package only
        self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """transformers' own, and the model's code beside it: models save their configuration by this method too.

        Checksums of what was in the folder before go: they are no longer true.
        """
        super().save_pretrained(save_directory, push_to_hub, **kwargs)
        (Path(save_directory) / SUMS).unlink(missing_ok=True)
        if type(self) is SioConvConfig:
            write_code(Path(save_directory))


AutoConfig.register(SioConvConfig.model_type, SioConvConfig, exist_ok=True)  # in the package only
