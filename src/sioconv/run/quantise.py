"""A model folder → the same model with matrices of 8 or 4 bits, measured before and after."""

from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import DataConfig
from sioconv.errors import UserError
from sioconv.evaluate.heldout import mean_bits
from sioconv.evaluate.run import texts_to_measure
from sioconv.files import refuse_existing
from sioconv.generate.quantise import check_quantisable, input_squares, quantise_model
from sioconv.hardware import pick_device
from sioconv.model.folder import load_model_folder, write_model_folder
from sioconv.run.measure import bundled_data, data_of

BITS = {"int8": 8, "int4": 4}
MEASURED = 50_000  # bytes of each source
DOCUMENTS, LONGEST = 16, 512  # of each source, and tokens of each document, for the importance of weights


def quantise(
    model: str, out: Path, to: str, text: str | None = None, device: str = "cpu", calibration: str | None = None
) -> dict[str, Any]:
    """Writes a model folder with matrices of few bits.

    Args:
        model: a model folder or a Hub id.
        out: the new folder.
        to: `int8` or `int4`.
        text: what bits per byte are measured on, a file, folder or glob; None takes the held-out text of the model's
            run.
        device: where to compute.
        calibration: text for the importance of weights in 4 bits; None takes training text of the model's run, or,
            where it has none, text of the package.

    Returns:
        What is printed, and stored in the folder's config.json (`quantization_config`).

    Raises:
        UserError: `out` is there, the model or a text can't be read, the model can't have so few bits, or the folder
            can't be written.
    """
    refuse_existing(out)
    bits = BITS[to]
    loaded, tokenizer = load_model_folder(model, pick_device(device))
    check_quantisable(loaded, bits)
    data, texts = texts_to_measure(text, DataConfig() if text is not None else data_of(model), MEASURED)
    squares = None
    if bits == 4:
        squares = input_squares(loaded, _documents(model, calibration, tokenizer))
    size = _bytes(loaded)
    before = mean_bits(loaded, tokenizer, data, texts, "before")
    quantise_model(loaded, bits, squares)
    after = mean_bits(loaded, tokenizer, data, texts, to)
    figures = {
        "bits_per_byte_before": before,
        "bits_per_byte": after,
        "bytes_measured": sum(len(document.encode()) for documents in texts.values() for document in documents),
        "weight_bytes_before": size,
        "weight_bytes": _bytes(loaded),
    }
    vars(loaded.config.quantization_config).update(figures)
    write_model_folder(loaded, tokenizer, out)
    return {"model": str(out), "to": to, "change": after / before - 1, **figures}


def _bytes(model: Any) -> int:
    """Of the weights in memory; those that are tied count once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def _documents(model: str, calibration: str | None, tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Some documents' token ids."""
    if calibration is not None:
        _, texts = texts_to_measure(calibration, DataConfig(), None)
    else:
        try:
            data = data_of(model)
        except UserError:
            data = bundled_data()
        texts = {
            name: [row.text or "" for row in islice(read_split(source, "train", data.heldout), DOCUMENTS)]
            for name, source in data.sources.items()
            if source.kind == "text"
        }
    some = [document for documents in texts.values() for document in documents[:DOCUMENTS]]
    return [ids[:LONGEST] for ids in tokenizer(some, split_special_tokens=True)["input_ids"]]
