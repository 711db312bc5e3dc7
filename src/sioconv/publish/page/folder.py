"""The folder that is the page: its own files, the runtime, the model in parts, what a static Space wants."""

import base64
import hashlib
import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sioconv.checksums import write_sums
from sioconv.data.chat import end_of_turn_id
from sioconv.data.tokenizer.tokenizer import ROLE_TOKENS
from sioconv.errors import UserError
from sioconv.evaluate.timescales import half_lives
from sioconv.files import atomic_folder, refuse_existing, sha256_file, work_folder
from sioconv.generate.config import SamplingConfig
from sioconv.generate.vocabulary import Vocabulary
from sioconv.model import SioConvForCausalLM
from sioconv.model.folder import load_model_folder
from sioconv.progress import say
from sioconv.publish.config import PublishConfig
from sioconv.publish.folder import LICENCE, NOTICE
from sioconv.publish.onnx.folder import check_kind, fingerprints, to_int8, write_graph
from sioconv.publish.onnx.graph import state_shapes
from sioconv.publish.page.runtime import FILE, find_runtime
from sioconv.publish.page.space import CARD, LIST, MANIFEST, MODEL, WORKER, space_card
from sioconv.publish.terms import terms_of

BUILT = Path(__file__).parent / "built"  # by `make page`
PART = 8 * 2**20  # bytes: hosts refuse large files, or want them elsewhere
MOST = 500_000_000  # parameters: a browser gives a page 4 GB, and the weights are there twice while they are loaded
SAMPLED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
MOST_TOKENS = 512  # of a reply, where nothing else is said


def export_page(
    model: Path,
    out: Path,
    to: str = "int8",
    name: str | None = None,
    text: str | None = None,
    runtime: Path | None = None,
    options: PublishConfig | None = None,
) -> dict[str, Any]:
    """Writes the page, whole or not at all, after its graph was compared with PyTorch.

    Args:
        model: a model folder.
        out: the new folder.
        to: `int8` or `fp32`.
        name: what the model is called; None for the name of its run.
        text: what the cost of 8 bits is measured on; None takes the held-out text of the run.
        runtime: see `find_runtime`.
        options: what is said of the licence (see `terms_of`); without it a Space's card has that of the model's own.

    Returns:
        What is printed.

    Raises:
        UserError: `out` is there, the model can't be exported, the licence given can't be, or the runtime can't be had.
    """
    refuse_existing(out)
    loaded, tokenizer = load_model_folder(str(model))
    check_kind(loaded, (to,))
    if (count := sum(each.numel() for each in loaded.parameters())) > MOST:
        raise UserError(f"{count:,} parameters are too many for a browser: the page takes {MOST:,} at most")
    terms = terms_of(model, options or PublishConfig())
    wasm = find_runtime(runtime)
    done: dict[str, Any] = {"folder": str(out)}
    if to == "int8":
        done |= to_int8(loaded, tokenizer, str(model), text)
    with atomic_folder(out) as folder:
        for file in sorted(BUILT.iterdir()):
            shutil.copyfile(file, folder / file.name)
        shutil.copyfile(wasm, folder / FILE)
        place = folder / MODEL
        place.mkdir()
        say(f"export: {to}")
        done |= _write_model(loaded, tokenizer, place, name or _name(model))
        if (model / NOTICE).is_file():
            shutil.copyfile(model / NOTICE, place / NOTICE)  # of the text: licences such as CC BY ask for it
        _write(folder / CARD, space_card(done["name"], terms))
        if terms.file is not None:
            shutil.copyfile(terms.file, folder / LICENCE)
        _write_worker(folder)
        write_sums(place)
        write_sums(folder)
        done["files"] = {
            file.relative_to(folder).as_posix(): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
    return done


def _write_model(
    model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast, place: Path, name: str
) -> dict[str, Any]:
    """The graph in parts, the tokenizer, and what the page must know of both."""
    with work_folder(place / "graph") as temporary:
        graph = temporary / "model.onnx"
        difference = write_graph(model, tokenizer, graph)
        data = graph.read_bytes()
    parts = []
    for number, start in enumerate(range(0, len(data), PART)):
        file = place / f"model.onnx.{number}"
        file.write_bytes(data[start : start + PART])
        parts.append({"file": file.name, "bytes": file.stat().st_size, "sha256": sha256_file(file)})
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
    _write_json(place / "tokenizer.json", _text_tokenizer(tokenizer))
    tokens = [base64.b64encode(vocabulary.bytes_of(token)).decode() for token in range(vocabulary.size)]
    _write_json(place / "tokens.json", tokens)
    _write_json(place / MANIFEST, _manifest(model, tokenizer, vocabulary, name) | {"parts": parts})
    return {"name": name, "logit_difference": difference, "model_bytes": len(data)}


def _manifest(
    model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, name: str
) -> dict[str, Any]:
    """See page/src/browser/manifest.ts."""
    config = model.config
    sampling = asdict(SamplingConfig().with_defaults(model.generation_config, ()))
    return {
        "name": name,
        "fingerprints": fingerprints(model, tokenizer),
        "shape": {
            "layers": config.num_hidden_layers,
            "heads": config.num_heads,
            "headDim": config.head_dim,
            "convWidth": config.conv_width,
            "trapezoid": config.trapezoid,
            "bigrams": config.bigram_rows > 0,
            "vocabulary": config.vocab_size,
        },
        "parameters": model.num_parameters(),
        "stateBytes": 4 * sum(map(math.prod, state_shapes(config).values())),
        "halfLives": half_lives(model, tokenizer),
        "sampling": {key: sampling[key] for key in SAMPLED} | {"max_tokens": MOST_TOKENS},
        "ids": {
            "bos": vocabulary.bos,
            "eos": vocabulary.eos,
            "endOfTurn": end_of_turn_id(tokenizer),
            "roles": {role: tokenizer.convert_tokens_to_ids(token) for role, token in ROLE_TOKENS.items()},
        },
        "special": sorted(vocabulary.special),
        "banned": vocabulary.banned.tolist(),
    }


def _text_tokenizer(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """A tokenizer.json that knows no special tokens: in it, all of a text is text."""
    values: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if not token["special"]]
    return values | {"post_processor": None, "truncation": None, "padding": None}


def _write_worker(folder: Path) -> None:
    """Tells the service worker what to keep; a page that has changed has another worker, which keeps the new files."""
    worker = folder / WORKER
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path not in (worker, folder / CARD))
    names = ["./", *(path.relative_to(folder).as_posix() for path in files)]
    version = hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()[:16]
    head = f"{LIST}{json.dumps(names)};\nconst SIOCONV_VERSION = {json.dumps(version)};\n"
    _write(worker, head + worker.read_text(encoding="utf-8"))


def _name(model: Path) -> str:
    place = model.resolve()
    return place.parent.name if place.name in ("model", "base") and place.parent.name else place.name


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _write_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value, ensure_ascii=False, separators=(",", ":")))
