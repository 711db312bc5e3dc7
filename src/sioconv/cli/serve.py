"""`sioconv serve`, and `sioconv serve key`."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from sioconv.cli.options import device_option, without_collector
from sioconv.cli.verb import OptionVerb
from sioconv.errors import UserError
from sioconv.terminal import show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    from sioconv.serve.config import ServeConfig

    parser.add_argument(
        "models", type=str, nargs="*",
        help="model folders or Hub ids; NAME=MODEL gives one a name; without any the small model of the package",
    )  # fmt: skip
    parser.add_argument("--host", type=str, default="127.0.0.1", help="the address; 0.0.0.0 for all of this machine's")
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 for any that is free")
    parser.add_argument(
        "--state", type=str, action="append", default=[],
        help="NAME=FILE: a persona, or a saved conversation, that requests begin from with persona=NAME",
    )  # fmt: skip
    parser.add_argument("--keys", type=str | None, default=None, help="a file of API keys; see sioconv serve key")
    parser.add_argument("--store", type=str | None, default=None, help="a file that keeps conversations over restarts")
    parser.add_argument("--no_store", action="store_true", help="keep nothing, in memory neither")
    device_option(parser)
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads")
    parser.add_class_arguments(ServeConfig)


def serve(arguments: "Namespace") -> None:
    """Serves models until it is stopped. Raises UserError where something that is named can't be had."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"sioconv serve needs {error.name}: pip install 'sioconv[serve]'") from error
    if not 0 <= arguments.port < 65536:
        raise UserError(f"port out of range: {arguments.port}: give a number from 0 to 65535")
    if arguments.no_store and arguments.store is not None:
        raise UserError("--store and --no-store contradict each other: give one")
    with without_collector():
        from sioconv.serve.access.keys import read_keys
        from sioconv.serve.config import ServeConfig
        from sioconv.serve.server import run_server
        from sioconv.serve.start import make_service

    config = ServeConfig(**{item.name: arguments[item.name] for item in fields(ServeConfig)})
    keys = None if arguments["keys"] is None else read_keys(Path(arguments["keys"]))
    store = None if arguments.no_store else (arguments.store or "")
    models = arguments.models
    if not models:
        from sioconv.model.in_package import packaged_model

        models = [str(packaged_model())]
    service = make_service(models, arguments.state, config, keys, store, arguments.device, arguments.threads)
    run_server(service, arguments.host, arguments.port)


def key_options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    parser.add_argument("file", type=str, help="the file of keys; it is made where there is none")
    parser.add_argument("name", type=str, help="whose key it is; it stands in logs")


def make_key(arguments: "Namespace") -> None:
    """Adds a key and prints it. Raises UserError where that can't be done."""
    from sioconv.serve.access.keys import add_key

    show(add_key(Path(arguments.file), arguments.name))


SERVE = OptionVerb(
    "serve",
    "[MODEL …]",
    "answer over HTTP as OpenAI's API does",
    "Serves models over HTTP, in the form of OpenAI's API, with memory of conversations.",
    "sioconv serve runs/demo/model --store states.db",
    options,
    serve,
)
SERVE_KEY = OptionVerb(
    "serve key",
    "FILE NAME",
    "make an API key for serve",
    "Makes an API key, prints it, and adds its hash to a file for sioconv serve --keys.",
    "sioconv serve key keys.txt alice",
    key_options,
    make_key,
)
