"""A model folder → a folder with ONNX files, as transformers.js and other runtimes expect one."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerFast

from sioconv.checksums import write_sums
from sioconv.data.config import DataConfig
from sioconv.errors import UserError
from sioconv.evaluate.heldout import Texts, mean_bits
from sioconv.evaluate.run import texts_to_measure
from sioconv.files import atomic_folder, refuse_existing
from sioconv.generate.quantise import check_quantisable, quantise_model
from sioconv.model import SioConvForCausalLM
from sioconv.model.fingerprint import weights_fingerprint
from sioconv.model.folder import load_model_folder, vocabulary_fingerprint
from sioconv.progress import say
from sioconv.publish.config import PublishConfig
from sioconv.publish.folder import CARD
from sioconv.publish.onnx.check import compare
from sioconv.publish.onnx.graph import check_exportable, export_graph
from sioconv.publish.terms import Terms, name_of, terms_of
from sioconv.run.measure import data_of
from sioconv.run.quantise import MEASURED

FOLDER = "onnx"
NAMES = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}  # as transformers.js calls them
BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def export_onnx(
    model: Path, out: Path, to: Sequence[str] = (), text: str | None = None, options: PublishConfig | None = None
) -> dict[str, Any]:
    """Writes a folder with the model as ONNX, whole or not at all, after it was compared with PyTorch.

    Args:
        model: a model folder.
        out: the new folder.
        to: `fp32`, `int8` or both; none for what the model's matrices are.
        text: what the cost of 8 bits is measured on, a file, folder or glob; None takes the held-out text of the run.
        options: what is said of the licence (see `terms_of`); without it the card has that of the model's own.

    Returns:
        What is printed: for each file its bytes and the largest difference of a logit; for 8 bits the bits per byte.

    Raises:
        UserError: `out` is there, the model can't be exported, the licence given can't be, or a graph computes
            something else.
    """
    refuse_existing(out)
    loaded, tokenizer = load_model_folder(str(model))
    to = to or ("int8" if _is_quantised(loaded) else "fp32",)
    check_kind(loaded, to)
    terms = terms_of(model, options or PublishConfig())
    done: dict[str, Any] = {"folder": str(out), "files": {}}
    with atomic_folder(out) as folder:
        (folder / FOLDER).mkdir()
        for kind in (kind for kind in NAMES if kind in to):
            if kind == "int8":
                done |= to_int8(loaded, tokenizer, str(model), text)
            file = folder / FOLDER / NAMES[kind]
            say(f"export: {kind}")
            difference = write_graph(loaded, tokenizer, file)
            done["files"][f"{FOLDER}/{file.name}"] = {"bytes": _bytes(file), "logit_difference": difference}
        copy_beside(model, folder)
        terms.write(folder, folder)
        (folder / CARD).write_text(_card(name_of(model), terms), encoding="utf-8", newline="\n")
        write_sums(folder / FOLDER)
        write_sums(folder)
    return done


def _card(name: str, terms: Terms) -> str:
    """The README.md, with the licence of the weights."""
    facts = {"pipeline_tag": "text-generation", "tags": ["onnx", "sioconv"]} | terms.metadata()
    notice = terms.notice is not None
    return (
        f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n\n# {name}\n\n"
        f"A language model as ONNX.{' `NOTICE` names the text that it has read.' if notice else ''}\n\n"
        f"ONNX の言語モデルです。{'読んだ文章は `NOTICE` にあります。' if notice else ''}\n\n"
        f"{terms.confirmed()}Made by `sioconv export onnx`.\n"
    )


def check_kind(model: Any, to: Sequence[str]) -> None:
    """Raises UserError where a model can't be exported as `to` says."""
    check_exportable(model)
    quantised = _is_quantised(model)
    if quantised and "fp32" in to:
        raise UserError("the model's matrices have 8 bits: give --to int8, or the model that it was made from")
    if not quantised:
        check_quantisable(model, 8)  # also for fp32: weights that are no numbers


def _is_quantised(model: Any) -> bool:
    return getattr(model.config, "quantization_config", None) is not None


def to_int8(
    model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast, name: str, text: str | None
) -> dict[str, float | None]:
    """Gives a model matrices of 8 bits, as `sioconv quantize` does, in place; bits per byte before and after.

    A model that has them stays as it is. Where there is no text to measure on, that is said, and the figures are None.
    """
    if _is_quantised(model):
        return {}
    measured = _texts(name, text)
    before = None if measured is None else mean_bits(model, tokenizer, *measured, "export")
    quantise_model(model, 8)
    after = None if measured is None else mean_bits(model, tokenizer, *measured, "export")
    return {"bits_per_byte_before": before, "bits_per_byte": after}


def write_graph(model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast, file: Path) -> float:
    """Writes a model's graph and compares it with the model; the largest difference of a logit.

    Raises UserError where it is too large.
    """
    import onnx_ir

    graph = export_graph(model, fingerprints(model, tokenizer))
    size = sum(parameter.nbytes for parameter in model.parameters())
    onnx_ir.save(graph, file, external_data=f"{file.name}_data" if size > 2**31 - 2**26 else None)
    return compare(file, model)


def fingerprints(model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """What a state file must say to belong to a model (see `generate.states.file`)."""
    return {
        "model": model.fingerprint(),
        "weights": weights_fingerprint(model),
        "tokenizer": vocabulary_fingerprint(tokenizer),
    }


def copy_beside(model: Path, folder: Path) -> None:
    """Copies the configuration and the tokenizer of a model folder; `modeling_sioconv.py` has no part in ONNX."""
    for name in BESIDE:
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)


def _texts(model: str, text: str | None) -> tuple[DataConfig, Texts] | None:
    try:
        data = DataConfig() if text is not None else data_of(model)
    except UserError as error:
        say(f"export: bits per byte aren't measured: {error}")
        return None
    return texts_to_measure(text, data, MEASURED)


def _bytes(file: Path) -> int:
    """Of a graph, and of the weights beside it where it is too large for one file."""
    return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*"))
