"""Adopting a tokenizer that others have made: its vocabulary and pieces, with this project's special tokens."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from sioconv import unique_keys
from sioconv.checksums import check_sums, write_sums
from sioconv.data.tokenizer.tokenizer import (
    SPECIAL_TOKENS,
    TOKENIZER_FILE,
    load_tokenizer,
    text_encoder,
    write_tokenizer,
)
from sioconv.errors import UserError
from sioconv.files import atomic_folder, missing, refuse_pointer


def adopt_tokenizer(name: str, out: Path) -> PreTrainedTokenizerFast:
    """Writes the tokenizer `name` to the folder `out`, ready for this project.

    One of this project's is copied. Of another, the model, the normalisation, the pieces and the tokens that were added
    as ordinary text are kept. Its own special tokens go, and `SPECIAL_TOKENS` are added behind its vocabulary: then no
    text can become one, whatever kind of tokenizer it is, and every part of the project finds what it needs. What puts
    a space before a text, and takes it away again, goes too, so that pieces of a text can be encoded one by one.

    Args:
        name: a folder with tokenizer.json, or `owner/name` or `owner/name@revision` on the Hugging Face Hub.
        out: the folder, written whole or not at all.

    Raises:
        UserError: there is no such tokenizer, it can't be read, two of its tokens have the same id, or text could
            become one of the special tokens.
    """
    file = tokenizer_file(name)
    refuse_pointer(file)
    check_sums(file.parent, TOKENIZER_FILE)
    _check_vocabulary(file, name)
    backend = read_backend(file)
    if all(token in special_tokens(backend) for token in SPECIAL_TOKENS):
        tokenizer = load_tokenizer(file.parent)
        _without_dropout(tokenizer.backend_tokenizer)
        _check_attack(tokenizer.backend_tokenizer, name)
        with atomic_folder(out) as folder:
            tokenizer.save_pretrained(folder)
            write_sums(folder)
        return load_tokenizer(out)
    _without_dropout(backend)
    adopted = _with_special_tokens(backend)
    _check_attack(adopted, name)
    with atomic_folder(out) as folder:
        write_tokenizer(adopted, folder)
    return load_tokenizer(out)


def tokenizer_file(name: str) -> Path:
    """The tokenizer.json of a folder or of a repository on the Hub, which is downloaded once.

    Raises UserError when there is none.
    """
    place = Path(name).expanduser()
    if place.is_dir():
        if (place / TOKENIZER_FILE).is_file():
            return place / TOKENIZER_FILE
        if below := [file.parent.as_posix() for file in sorted(place.glob(f"*/{TOKENIZER_FILE}"))]:
            raise UserError(f"no tokenizer: {name}: but there is one below it: give {' or '.join(below)}")
        raise UserError(
            f"no tokenizer: {name}: {TOKENIZER_FILE} isn't there: load the folder with transformers' AutoTokenizer and "
            "save it with save_pretrained, which writes one"
        )
    repository, _, revision = name.partition("@")
    if (
        repository.count("/") != 1 or place.parent.is_dir()
    ):  # an existing parent folder means a mistyped path, not a Hub id
        what = "it is a file" if place.is_file() else missing(place)
        raise UserError(f"no tokenizer: {name}: {what}: give a folder with {TOKENIZER_FILE}, or a Hub id owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=["tokenizer*.json", "special_tokens_map.json", "chat_template.jinja"],
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"can't get the tokenizer {name} from the Hub: {reason}: check its name and the network"
        ) from error
    return tokenizer_file(folder)


def read_backend(file: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json. Raises UserError when it can't be read."""
    refuse_pointer(file)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises bare Exceptions for what it can't parse
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"can't load the tokenizer: {file}: {reason}: copy it again") from error


def _without_dropout(backend: Tokenizer) -> None:
    """Turns off what others train with: merges left out at random, so that no text has the same tokens twice."""
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None


def special_tokens(backend: Tokenizer) -> set[str]:
    """The tokens that aren't text."""
    return {token.content for token in backend.get_added_tokens_decoder().values() if token.special}


def _check_vocabulary(file: Path, name: str) -> None:
    """Refuses what can't be made a tokenizer of this project, before the library reads it."""
    try:
        model = unique_keys.loads(file.read_text(encoding="utf-8"))["model"]
        vocabulary = model["vocab"]
        pieces = vocabulary if isinstance(vocabulary, dict) else [(piece, float(score)) for piece, score in vocabulary]
        ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else list(range(len(pieces)))
    except unique_keys.RepeatedKeyError as error:
        raise UserError(f"can't adopt the tokenizer: {file}: {error}: adopt another") from error
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise UserError(
            f"can't load the tokenizer: {file}: it has no model with a vocabulary: copy it again"
        ) from error
    if not ids:
        raise UserError(f"can't adopt the tokenizer: {name}: its vocabulary is empty: adopt another")
    if len(set(ids)) < len(ids):
        raise UserError(f"can't adopt the tokenizer: {name}: two of its tokens have the same id: adopt another")
    if model.get("type") == "Unigram" and model.get("unk_id") is None and not model.get("byte_fallback"):
        raise UserError(f"can't adopt the tokenizer: {name}: it has no token for what it doesn't know: adopt another")
    for token in SPECIAL_TOKENS:
        if token in _from_text(model, vocabulary):
            raise UserError(f"unsafe tokenizer: {name}: text that spells {token} would become it: adopt another")


def _from_text(model: dict[str, Any], vocabulary: Any) -> set[str]:
    """Tokens of the vocabulary that some text can become, whatever a normalisation makes of it."""
    if not isinstance(vocabulary, dict):  # Unigram's pieces, each with its score
        return {piece for piece, _ in vocabulary}
    if model.get("type", "BPE") != "BPE" or model.get("ignore_merges") or "merges" not in model:
        return set(vocabulary)
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    return {"".join(pair) for pair in pairs}


def _with_special_tokens(backend: Tokenizer) -> Tokenizer:
    parts = json.loads(backend.to_str())
    added = [token for _, token in sorted(backend.get_added_tokens_decoder().items())]
    kept = [
        # Without taking spaces beside them, which wouldn't come back.
        AddedToken(token.content, normalized=token.normalized, single_word=token.single_word, special=False)
        for token in added
        if not token.special and token.content not in SPECIAL_TOKENS
    ]
    if isinstance(parts["model"]["vocab"], dict):  # ids without gaps: special tokens come behind the last
        by_id = sorted(parts["model"]["vocab"].items(), key=lambda entry: entry[1])
        parts["model"]["vocab"] = {token: number for number, (token, _) in enumerate(by_id)}
    parts |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        parts[part] = _without_first_space(parts[part])
    if parts["model"].get("byte_fallback"):
        # A Unigram model would take the text <0x0A> for the token of that name, which is the end of a line.
        apart = {"type": "Split", "pattern": {"String": "<0x"}, "behavior": "Isolated", "invert": False}
        steps = [apart, parts["pre_tokenizer"]] if parts["pre_tokenizer"] else [apart]
        parts["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    adopted = Tokenizer.from_str(json.dumps(parts))
    adopted.add_tokens(kept)
    adopted.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return adopted


def _without_first_space(part: Any) -> Any:
    """A normaliser, pre-tokeniser or decoder without the space that some put before a text and take away again."""
    if not isinstance(part, dict):
        return part
    for key in ("normalizers", "pretokenizers", "decoders"):  # a sequence of such parts
        if key in part:
            inner = [_without_first_space(one) for one in part[key]]
            return {**part, key: [one for one in inner if one is not None]}
    if part["type"] == "Prepend" or (part["type"] == "Strip" and part.get("content") == " "):
        return None
    changed = {"prepend_scheme": "never", "add_prefix_space": False}
    return {key: changed.get(key, value) for key, value in part.items()}


def _check_attack(backend: Tokenizer, name: str) -> None:
    """Refuses a tokenizer that makes a special token from text that spells it."""
    encoder = text_encoder(backend)
    special = {backend.token_to_id(token) for token in SPECIAL_TOKENS}
    for token in SPECIAL_TOKENS:
        for text in (token, f"a{token}b", f" {token} ", token * 2):
            if special & set(encoder.encode(text, add_special_tokens=False).ids):
                raise UserError(f"unsafe tokenizer: {name}: text that spells {token} would become it: adopt another")
