"""`sioconv publish`."""

from collections.abc import Mapping, Set
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from sioconv.cli.options import json_option, strings_of
from sioconv.cli.verb import OptionVerb
from sioconv.errors import UserError
from sioconv.terminal import show, show_json, tell

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from sioconv.publish.config import PublishConfig
    from sioconv.publish.push import Kind

# Options that may be given several times, or as a list in brackets, which is all that the parser would take by itself.
SEVERAL = {
    "source_license": "SOURCE=LICENCE for a source whose licence the recipe doesn't name; may be given several times",
    "state": "FILE or NAME=FILE, a persona of this model or a saved conversation; may be given several times",
    "variant": "NAME=FOLDER for a quantised form of this model; may be given several times",
}

MODEL = "folder of a model or a tokenizer; to push as it is, what this verb or sioconv export page has written"


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    from sioconv.publish.config import PublishConfig

    parser.add_argument("model", type=str, help=MODEL)
    parser.add_argument("out", type=str | None, nargs="?", default=None, help="the new folder; not needed with --repo")
    parser.add_argument(
        "--repo", type=str | None, default=None, help="push to OWNER/NAME on the Hub; a new one is private"
    )
    parser.add_argument("--public", action="store_true", help="the repository may be read by everybody")
    parser.add_argument("--update", action="store_true", help="take the place of what the repository holds")
    parser.add_argument("--dry_run", action="store_true", help="list every file and its size, and push nothing")
    json_option(parser)
    fact_options(parser, {item.name for item in fields(PublishConfig)})


def fact_options(parser: "ArgumentParser", names: Set[str]) -> None:
    """Adds the options of `PublishConfig` that `names` holds."""
    from sioconv.publish.config import PublishConfig

    others = {item.name for item in fields(PublishConfig)} - names
    parser.add_class_arguments(PublishConfig, skip={*others, *SEVERAL, "license_confirmed"})
    if "license_confirmed" in names:
        parser.add_argument(
            "--license_confirmed",
            action="store_true",
            help="publish although the licence of a text may forbid it; the card says so",
        )
    for name in (name for name in SEVERAL if name in names):
        parser.add_argument(f"--{name}", type=str, action="append", default=[], help=SEVERAL[name])


def given_facts(arguments: "Namespace") -> "PublishConfig":
    """What was said by these options."""
    from sioconv.publish.config import PublishConfig

    names = [item.name for item in fields(PublishConfig) if item.name in arguments]
    several = {name: strings_of(arguments[name]) for name in names if name in SEVERAL}
    return PublishConfig(**{name: arguments[name] for name in names} | several)


def publish(arguments: "Namespace") -> None:
    """Writes a folder for the Hub and pushes it. Raises UserError where a fact is missing or the Hub refuses."""
    if arguments.out is None and arguments.repo is None:
        raise UserError("nowhere to publish to: give a new folder OUT, or --repo OWNER/NAME")
    from sioconv.publish.config import PublishConfig
    from sioconv.publish.copies import copy_published
    from sioconv.publish.folder import in_temporary_place, is_published, publish_folder
    from sioconv.publish.page.space import check_page, is_page
    from sioconv.publish.push import check_name, check_target, full_name
    from sioconv.publish.tokenizer import is_tokenizer, publish_tokenizer

    given = given_facts(arguments)
    if arguments.repo is not None:
        check_name(arguments.repo)
    model = Path(arguments.model)
    page, published = is_page(model), is_published(model)
    if page and (arguments.out is not None or given != PublishConfig()):
        raise UserError(f"{model} is a page: give it --repo OWNER/NAME alone, to push it as it is")
    if published and given != PublishConfig():
        raise UserError(f"{model} is published already, with its facts: give only OUT or --repo OWNER/NAME")
    if _pushes(arguments):  # before the work, not after it
        from huggingface_hub import HfApi

        api = HfApi()
        check_target(arguments.repo, api)
        arguments.repo = full_name(arguments.repo, api, arguments.line)
    if page:
        check_page(model)
        _finish(model, arguments, "space")
        return
    with in_temporary_place(None if arguments.out is None else Path(arguments.out)) as folder:
        if published:
            copy_published(model, folder, arguments.repo, links=arguments.out is None)
        else:
            (publish_tokenizer if is_tokenizer(model) else publish_folder)(model, folder, given, arguments.repo)
        _finish(folder, arguments)


def _pushes(arguments: "Namespace") -> bool:
    return arguments.repo is not None and not arguments.dry_run


def list_files(files: Mapping[str, int]) -> None:
    """Shows each file's bytes, and their sum."""
    for name, size in files.items():
        show(f"{size:>14,}  {name}")
    total = f"{sum(files.values()):>14,}"
    tell(f"{total}  bytes in {len(files)} files")


def _finish(folder: Path, arguments: "Namespace", kind: "Kind" = "model") -> None:
    """Lists the files, then pushes them."""
    from sioconv.publish.folder import files_of
    from sioconv.publish.states import warn_of_conversations

    files, address = files_of(folder), None
    if not arguments.json:
        list_files(dict(files))
    warn_of_conversations(folder)
    if _pushes(arguments):
        address = _push(folder, arguments, kind)
    if arguments.json:
        place = arguments.out or (arguments.model if arguments.repo is None else None)
        show_json({"folder": place, "files": dict(files), "repository": address})
    elif address is not None:
        tell(f"pushed: {address}")
    elif arguments.repo is not None:
        tell(f"dry run: nothing was pushed to {arguments.repo}")


def _push(folder: Path, arguments: "Namespace", kind: "Kind") -> str:
    """Pushes the folder; an error names the line that goes on.

    That is the same line again, which makes the same bytes anew where the folder was a temporary one. Only where OUT
    has been written the same line would find it in its way.
    """
    from sioconv.publish.push import push_folder, push_line

    repo, public = arguments.repo, arguments.public
    update = arguments["update"]  # not .update, which is a method of every Namespace
    if arguments.out is None:
        return push_folder(folder, repo, public, update, again=arguments.line, kind=kind)
    again = push_line(folder, repo, public, update)
    try:
        return push_folder(folder, repo, public, update, again=again, kind=kind)
    except UserError as error:
        if again in str(error):
            raise
        raise UserError(f"{error}; {folder} is written: push it by {again}") from error


PUBLISH = OptionVerb(
    "publish",
    "MODEL OUT",
    "a model folder → a folder or repository for the Hub",
    "Makes a folder for the Hub of a model or a tokenizer, with its card and licences. --repo pushes it, or a page.",
    'sioconv publish runs/demo/model hub/demo --license apache-2.0 --author "Aoba Lab"\n'
    'sioconv publish runs/demo/tokenizer --repo aoba/tokens --license apache-2.0 --author "Aoba Lab" --dry-run\n'
    "sioconv publish runs/demo/page --repo aoba/demo --dry-run",
    options,
    publish,
)
