"""The settings of a tokenizer's folder: for every tool, without what only this machine knows."""

import json
from pathlib import Path
from typing import Any

from sioconv.errors import UserError

SETTINGS = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
# What transformers notes of how and from where a tokenizer was loaded.
LOCAL = {
    *(
        "backend",
        "cache_dir",
        "files_loaded",
        "force_download",
        "is_local",
        "local_files_only",
        "name_or_path",
        "proxies",
    ),
    *("proxies", "revision", "special_tokens_map_file", "subfolder", "token", "tokenizer_file", "trust_remote_code"),
    *("use_auth_token", "vocab_file", "_commit_hash"),
}


def settle_tokenizer(folder: Path) -> None:
    """Makes the settings that transformers has saved fit for other tools and machines.

    transformers.js reads the chat template from tokenizer_config.json alone, transformers from chat_template.jinja
    first: it stands in both. Older versions of transformers don't know the class `TokenizersBackend`.

    Args:
        folder: holds tokenizer_config.json and, if there is one, chat_template.jinja.
    """
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    settings = {key: value for key, value in settings.items() if key not in LOCAL}
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if (folder / TEMPLATE).is_file():
        settings["chat_template"] = (folder / TEMPLATE).read_text(encoding="utf-8")
    write_settings(folder, settings)


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes tokenizer_config.json into a folder that isn't in its place yet."""
    text = json.dumps(settings, indent=2, ensure_ascii=False, sort_keys=True)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")


def check_template(folder: Path) -> None:
    """Refuses a folder whose two chat templates differ: one tool would speak otherwise than another.

    Raises:
        UserError: naming the two files.
    """
    try:
        template = (folder / TEMPLATE).read_bytes().decode()
        other = json.loads((folder / SETTINGS).read_bytes()).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return  # none of the two, or not one that can be read: for the loader to say
    if isinstance(other, str) and other != template:
        raise UserError(
            f"two chat templates in {folder}: {TEMPLATE} and the one in {SETTINGS} differ: make them equal, or take "
            f'"chat_template" out of {SETTINGS}'
        )
