"""The folder that goes to the Hub: model, card, provenance, plots, licences, states, quantised forms, checksums."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import yaml

from sioconv.checksums import SUMS, checksums, write_sums
from sioconv.errors import UserError
from sioconv.files import atomic_folder, shown, work_folder
from sioconv.model import SioConvForCausalLM, load_model_folder
from sioconv.model.fingerprint import weights_fingerprint
from sioconv.model.folder_code import FILE, write_code
from sioconv.model.tensor_file import kind_of
from sioconv.progress import say
from sioconv.publish.card import benchmark_results, card
from sioconv.publish.config import PublishConfig
from sioconv.publish.facts import HUB_ID, Facts, Source, gather, named, provenance
from sioconv.publish.states import PERSONAS, STATES, Conversation, conversations_of, given_states
from sioconv.publish.verify import verify_folders
from sioconv.recipe.files import write_yaml
from sioconv.run.folder import REPORT

PROVENANCE = "provenance.json"
CARD, RECIPE, LICENCE, CODE_LICENCE, NOTICE = "README.md", "recipe.yaml", "LICENSE", "LICENSE-code", "NOTICE"
RESULTS = ".eval_results"
PLOTS = ("loss.svg", "timescales.svg")
# What belongs to a model folder; other files beside it stay where they are.
MODEL_FILES = (
    "config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json", FILE, "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
# What a folder that is published may hold besides: no quantised form can have such a name.
OWN_NAMES = (
    *MODEL_FILES, CARD, RECIPE, LICENCE, CODE_LICENCE, NOTICE, PROVENANCE, SUMS, RESULTS, PERSONAS, STATES, *PLOTS,
)  # fmt: skip
SAME = ("hidden_size", "num_hidden_layers", "vocab_size", "tokenizer_fingerprint")


def is_published(folder: Path) -> bool:
    """Whether a folder is one that `publish_folder` has written."""
    try:
        values = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("format") == "sioconv-published"


def publish_folder(model: Path, out: Path, options: PublishConfig, repo: str | None = None) -> Facts:
    """Writes the folder `out` for a model, whole or not at all, after it was loaded as a stranger loads it.

    Two calls with the same model and facts write the same bytes.

    Args:
        model: a model folder.
        out: the folder; must not be there yet.
        options: facts that no file knows, states, quantised forms.
        repo: OWNER/NAME on the Hub, for the card's examples; without it they load `out` from the folder it is in.

    Returns:
        The facts that stand in it.

    Raises:
        UserError: a fact is missing, a licence speaks against it, a file isn't of this model, `out` is there already,
            or what was written can't be loaded without the package.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} is there already: choose another folder or remove it")
    if not model.is_dir():
        raise UserError(f"no model folder at {shown(model)}: give a folder with config.json, such as runs/demo/model")
    if options.benchmark is not None and not HUB_ID.fullmatch(options.benchmark):
        raise UserError(f"--benchmark {options.benchmark!r} is no identifier of the Hub: give OWNER/NAME")
    personas, saved = given_states(options.state)
    loaded, _ = load_model_folder(model)
    if getattr(loaded.config, "quantization_config", None) is not None:
        raise UserError(
            f"{shown(model)} is quantised: publish the model that it was made from, and this one with it: "
            f"--variant {model.name}={shown(model)}"
        )
    parameters = sum(parameter.numel() for parameter in loaded.parameters())
    facts = gather(model, options, parameters, weights_fingerprint(loaded))
    for file in personas.values():
        load_model_folder(model, state=file)  # refuses one that wasn't tuned from this very model
    variants = _variants(model, loaded, options)
    conversations = conversations_of(model, saved, personas, variants)
    with atomic_folder(out) as folder:
        _copy_model(model, folder)
        for place, files in ((folder / PERSONAS, personas), (folder / STATES, saved)):
            _copy_states(files, place)
        for name, place in variants.items():
            (folder / name).mkdir()
            _copy_model(place, folder / name)
            write_sums(folder / name)
        _write_texts(folder, facts, options, repo or out.name, sorted(personas), conversations, sorted(variants))
        write_sums(folder)
        verify_folders([folder, *(folder / name for name in variants)])
    return facts


def files_of(folder: Path) -> list[tuple[str, int]]:
    """Every file of a folder with its size, as they will be on the Hub."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def _copy_model(model: Path, folder: Path) -> None:
    """The files of a model folder, without states that were saved there; this version's code where it has no such."""
    found = {file for pattern in MODEL_FILES for file in model.glob(pattern) if file.is_file()}
    files = sorted(file for file in found if kind_of(file) is None)
    for file in files:
        _copy(file, folder / file.name)
    write_code(folder)
    left = sorted(file.name for file in model.iterdir() if file not in files and file.name != SUMS)
    if left:
        say(f"publish: left out of {shown(model)}: {', '.join(map(shown, left[:8]))}{' …' if len(left) > 8 else ''}")


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _copy_states(files: Mapping[str, Path], place: Path) -> None:
    if files:
        place.mkdir()
        for name, file in files.items():
            _copy(file, place / f"{name}.safetensors")
        write_sums(place)


def _variants(model: Path, own: SioConvForCausalLM, options: PublishConfig) -> dict[str, Path]:
    """Name → folder of each quantised form, which was made from this model, `own`."""
    found = {name: Path(place) for name, place in named(options.variant, "variant").items()}
    for name, place in found.items():
        if not place.is_dir():
            raise UserError(f"--variant {name}={place}: no such folder: give one that sioconv quantize has written")
        if any(fnmatch(name.lower(), taken.lower()) for taken in OWN_NAMES):
            raise UserError(
                f"--variant {name}={place}: a file or folder of the published folder has that name: choose another, "
                "such as int8"
            )
        other, _ = load_model_folder(place)
        if any(getattr(other.config, key, None) != getattr(own.config, key, None) for key in SAME):
            raise UserError(f"--variant {name}={place}: its sizes or its tokenizer aren't those of {shown(model)}")
        made_from = getattr(getattr(other.config, "quantization_config", None), "made_from", None)
        if made_from is None and getattr(other.config, "quantization_config", None) is None:
            made_from = weights_fingerprint(other)
        if made_from is None:
            say(
                f"warning: --variant {name}={place}: it doesn't say which weights it was made from, so that only its "
                "sizes and its tokenizer were compared: sioconv quantize makes it anew"
            )
        elif made_from != weights_fingerprint(own):
            raise UserError(
                f"--variant {name}={place}: it was made from other weights than those of {shown(model)}: "
                "make it anew by sioconv quantize"
            )
    return found


def _write_texts(
    folder: Path,
    facts: Facts,
    options: PublishConfig,
    repo: str,
    personas: list[str],
    conversations: Mapping[str, Conversation],
    variants: list[str],
) -> None:
    """Card, recipe, provenance, plots, licences, results for a benchmark."""
    assert facts.recipe is not None
    weights = sorted(folder.glob("*.safetensors"))
    sums = dict(zip((file.name for file in weights), checksums(weights), strict=True))
    _write(folder / PROVENANCE, json.dumps(provenance(facts, sums), ensure_ascii=False, indent=1) + "\n")
    write_yaml(facts.recipe, folder / RECIPE)
    plots = [name for name in PLOTS if facts.run is not None and (facts.run / REPORT / name).is_file()]
    for name in plots:
        assert facts.run is not None
        _copy(facts.run / REPORT / name, folder / name)
    if options.license_file is not None:
        _copy(Path(options.license_file), folder / LICENCE)
    _write(folder / CODE_LICENCE, package_text("LICENSE"))
    _write(folder / NOTICE, notices(f"{facts.name}, a language model", facts.author, facts.sources))
    if options.benchmark is not None:
        (folder / RESULTS).mkdir()
        results = yaml.safe_dump(benchmark_results(facts, options.benchmark), sort_keys=False)
        _write(folder / RESULTS / "bits_per_byte.yaml", results)
        write_sums(folder / RESULTS)
    has_licence_file = options.license_file is not None
    _write(folder / CARD, card(facts, repo, plots, personas, conversations, variants, has_licence_file))


def notices(title: str, author: str, sources: Iterable[Source]) -> str:
    """The notices of the text: what each source's licence is, and the package's own NOTICE where its text was read.

    `author` may be empty: nobody has said then whose the model is.
    """
    lines = [title, *([f"Copyright {author}"] if author else []), "", "The text that it has read:", ""]
    lines += [f"{source.name} ({source.stage}): {source.path}, {source.licence}" for source in sources]
    text = "\n".join(lines) + "\n"
    if any(source.path.startswith(("bundled:", "identity:")) for source in sources):
        text += "\nOf the package sioconv, whose text and code are in it:\n\n" + package_text("NOTICE")
    return text


def package_text(name: str) -> str:
    """A text that stands beside the package: in a checkout, or among the files of its installation."""
    file = Path(__file__).parents[3] / name
    if file.is_file() and (file.parent / "pyproject.toml").is_file():
        return file.read_text(encoding="utf-8")
    try:
        text = metadata.distribution("sioconv").read_text(f"licenses/{name}")
    except metadata.PackageNotFoundError:
        text = None
    if text is None:
        raise UserError(f"the installation of sioconv lacks its {name}: install it again")
    return text


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def in_temporary_place(folder: Path | None) -> Iterator[Path]:
    """`folder`, or where it is None a place that is removed at the end."""
    if folder is not None:
        yield folder
        return
    with work_folder(Path(tempfile.gettempdir()) / "sioconv-publish") as place:
        yield place / "model"
