"""Pushing a published folder to the Hub, by huggingface_hub."""

import hashlib
import shlex
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils._validators import validate_repo_id

from sioconv.errors import UserError
from sioconv.files import sha256_file
from sioconv.publish.folder import files_of

# What its HTTP client raises where no answer comes; older versions use httpx, newer ones httpx2.
NO_ANSWER: Any = HfHubHTTPError.__bases__[0]
Kind = Literal["model", "space"]
ATTRIBUTES = ".gitattributes"  # the Hub's own
MESSAGE = "Publish with sioconv"
SHOWN = 3  # files in a message


def check_name(repo: str) -> None:
    """Raises UserError for a repository's name that is neither `name` nor `owner/name`."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--repo {repo!r} is no name for a repository: give NAME or OWNER/NAME") from error


def push_line(folder: Path, repo: str, public: bool = False, update: bool = False) -> str:
    """The command line that pushes a published folder, for messages: also what goes on with a push of it."""
    flags = [*(["--public"] if public else []), *(["--update"] if update else [])]
    return shlex.join(["sioconv", "publish", str(folder), "--repo", repo, *flags])


def check_target(repo: str, api: HfApi) -> None:
    """Raises UserError where a push can't even begin: a bad name, offline mode, no token."""
    check_name(repo)
    if constants.is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set: unset it to push, or leave out --repo")
    if _token(api) is None:
        raise UserError("no token for the Hub: run `hf auth login`, or set HF_TOKEN to a token with write access")


def full_name(repo: str, api: HfApi, again: str) -> str:
    """OWNER/NAME of a repository that may be given as NAME, for one's own.

    Raises UserError where the Hub isn't reached or doesn't know the token; `again` is the line to go on with.
    """
    if "/" in repo:
        return repo
    try:
        return f"{api.whoami()['name']}/{repo}"
    except HfHubHTTPError as error:
        raise _refusal(error, repo, again) from error
    except (NO_ANSWER, OSError) as error:
        raise _cut_off(repo, api, error, again) from error


def push_folder(
    folder: Path,
    repo: str,
    public: bool = False,
    update: bool = False,
    api: HfApi | None = None,
    again: str | None = None,
    kind: Kind = "model",
) -> str:
    """Pushes a folder as one repository; returns its address.

    What an earlier push that was cut off has sent isn't sent again. At the end each file on the Hub is compared with
    the folder's.

    Args:
        folder: what `publish_folder`, `publish_tokenizer` or `export_page` has written.
        repo: OWNER/NAME, or NAME for one's own.
        public: make a new repository that everybody can read; an existing one keeps its visibility, and a public one
            is refused without this.
        update: let the folder take the place of what an existing repository holds.
        api: the client; the one for HF_ENDPOINT and the user's token by default.
        again: the command line that goes on with a push that was cut off; by default one that names `folder`.
        kind: of the repository; a Space is a static one.

    Raises:
        UserError: no token, no rights, offline, a repository with other content, or a push that was cut off.
    """
    api = api or HfApi()
    check_target(repo, api)
    full = repo
    again = again or push_line(folder, repo, public, update)
    try:
        full, exists = _create(api, repo, public, kind)
        if exists:
            _check_existing(api, full, folder, public, update, kind)
        stale = "*" if update else None
        api.upload_folder(
            repo_id=full, folder_path=folder, commit_message=MESSAGE, delete_patterns=stale, repo_type=kind
        )
        missing = _unlike(_remote(api, full, kind), folder)
    except UserError:
        raise
    except OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE is set: unset it to push, or leave out --repo") from error
    except HfHubHTTPError as error:
        raise _refusal(error, full, again) from error
    except (NO_ANSWER, OSError, RuntimeError) as error:  # RuntimeError: around what broke a large file
        raise _cut_off(full, api, error, again) from error
    except ValueError as error:  # the Hub's check of the card
        raise UserError(f"the Hub refuses the card of {full}: {' '.join(str(error).split())[:200]}") from error
    if missing:
        raise UserError(f"{full} holds not what was pushed: {missing[0]} differs: run again: {again}")
    return f"{api.endpoint}/{'spaces/' if kind == 'space' else ''}{full}"


def _token(api: HfApi) -> str | None:
    from huggingface_hub import get_token

    return api.token if isinstance(api.token, str) else get_token()


def _create(api: HfApi, repo: str, public: bool, kind: Kind) -> tuple[str, bool]:
    """The full name, and whether the repository was there already."""
    try:
        sdk = "static" if kind == "space" else None
        return api.create_repo(repo, private=not public, repo_type=kind, space_sdk=sdk).repo_id, False
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code == 409:
            return repo if "/" in repo else f"{api.whoami()['name']}/{repo}", True
        raise


def _check_existing(api: HfApi, repo: str, folder: Path, public: bool, update: bool, kind: Kind) -> None:
    try:
        private = api.repo_info(repo, repo_type=kind).private
    except RepositoryNotFoundError as error:
        raise UserError(f"{repo} exists, but this token may not see it: choose another --repo or token") from error
    if not private and not public:
        raise UserError(f"{repo} exists and is public: give --public to push there, or choose another --repo")
    remote = _remote(api, repo, kind)
    local = {name for name, _ in files_of(folder)}
    changed = set(_unlike(remote, folder))
    other = sorted(name for name in remote if name not in local or name in changed)
    if other and not update:
        more = " …" if len(other) > SHOWN else ""
        raise UserError(
            f"{repo} exists and holds other content ({', '.join(other[:SHOWN])}{more}): choose another --repo, "
            "or give --update to put what is here in its place"
        )


def _remote(api: HfApi, repo: str, kind: Kind) -> dict[str, tuple[str, bool]]:
    """File → its hash on the Hub, and whether that is the SHA-256 of a large file (else the one that git takes)."""
    found: dict[str, tuple[str, bool]] = {}
    for entry in api.list_repo_tree(repo, recursive=True, repo_type=kind):
        values: Any = entry
        if hasattr(values, "blob_id") and values.path != ATTRIBUTES:
            found[values.path] = (values.lfs.sha256, True) if values.lfs else (values.blob_id, False)
    return found


def _unlike(remote: dict[str, tuple[str, bool]], folder: Path) -> list[str]:
    """Files of the folder that the Hub doesn't hold as they are here."""
    unlike = []
    for name, _ in files_of(folder):
        known = remote.get(name)
        if known is None or known[0] != (sha256_file(folder / name) if known[1] else _git_hash(folder / name)):
            unlike.append(name)
    return unlike


def _git_hash(file: Path) -> str:
    data = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _refusal(error: HfHubHTTPError, repo: str, again: str) -> UserError:
    code = error.response.status_code if error.response is not None else 0
    reason = " ".join(str(error.server_message or error).split())[:200]
    if code == 401:
        return UserError(f"the Hub doesn't know this token ({reason}): run `hf auth login` with one that may write")
    if code in (403, 404):
        return UserError(
            f"this token may not write to {repo} ({reason}): take a token with write access, or your own --repo"
        )
    if code in (408, 429) or code >= 500 or code == 0:
        return _broken(repo, reason, again)
    return UserError(f"the Hub refuses the push to {repo}: {reason}")


def _cut_off(repo: str, api: HfApi, error: Exception, again: str) -> UserError:
    reason = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
    if type(error).__name__ == "ConnectError":
        return UserError(f"can't reach {api.endpoint} ({reason}): check the connection, then go on with {again}")
    return _broken(repo, reason, again)


def _broken(repo: str, reason: str, again: str) -> UserError:
    return UserError(
        f"the push to {repo} was cut off ({reason}): go on with {again} (what is there already isn't sent again)"
    )
