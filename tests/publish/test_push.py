"""huggingface_hub's real client pushes to a server on this machine that speaks the Hub's protocol."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from sioconv.errors import UserError
from sioconv.publish.folder import files_of
from sioconv.publish.push import push_folder
from tests.publish.hub import READER, WRITER, Hub

CARD = "---\nlanguage: [ja]\nlicense: mit\nmodel-index: []\n---\n# tiny\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is pushed."""
    place = tmp_path / "out"
    (place / ".eval_results").mkdir(parents=True)
    (place / "README.md").write_text(CARD)
    (place / ".eval_results" / "bits.yaml").write_text("[]\n")
    (place / "model.safetensors").write_bytes(bytes(range(256)) * 400)
    (place / "config.json").write_text("{}")
    return place


def api(hub: Hub, token: str | bool = WRITER) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def test_every_file_arrives_and_a_new_repository_is_private(hub: Hub, folder: Path) -> None:
    assert push_folder(folder, "aoba/tiny", api=api(hub)) == f"{hub.url}/aoba/tiny"
    repository = hub.repositories["aoba/tiny"]
    assert repository.private and repository.large == {"model.safetensors"} and len(repository.commits) == 1
    assert {name: (folder / name).read_bytes() for name, _ in files_of(folder)} == {
        name: data for name, data in repository.files.items() if name != ".gitattributes"
    }
    push_folder(folder, "tiny", api=api(hub))  # the same again, by its short name: nothing is sent
    assert hub.count["put"] == 1 and len(repository.commits) == 1
    push_folder(folder, "open", public=True, api=api(hub))
    assert not hub.repositories["aoba/open"].private


def test_a_push_that_was_cut_off_goes_on(hub: Hub, folder: Path) -> None:
    """Whether the connection is lost in the weights or at the end: what has arrived isn't sent again."""
    hub.fail["put"] = [0] * 20
    with pytest.raises(UserError, match=r"was cut off .* go on with sioconv publish .* --repo aoba/tiny"):
        push_folder(folder, "aoba/tiny", api=api(hub))
    assert not hub.repositories["aoba/tiny"].commits
    hub.fail = {"commit": [0] * 20}
    with pytest.raises(UserError, match="was cut off"):
        push_folder(folder, "aoba/tiny", api=api(hub))
    sent = hub.count["put"]
    hub.fail = {}
    push_folder(folder, "aoba/tiny", api=api(hub))
    assert hub.count["put"] == sent and len(hub.repositories["aoba/tiny"].commits) == 1


def test_a_repository_with_other_content_is_left_alone(hub: Hub, folder: Path) -> None:
    push_folder(folder, "aoba/tiny", api=api(hub))
    hub.repositories["aoba/tiny"].files |= {"old.txt": b"mine", "config.json": b"{1}"}
    with pytest.raises(UserError, match=r"holds other content \(config.json, old.txt\): .* --update"):
        push_folder(folder, "aoba/tiny", api=api(hub))
    assert hub.repositories["aoba/tiny"].files["old.txt"] == b"mine"
    push_folder(folder, "aoba/tiny", update=True, api=api(hub))
    assert "old.txt" not in hub.repositories["aoba/tiny"].files
    assert hub.repositories["aoba/tiny"].files["config.json"] == b"{}"
    hub.repositories["aoba/tiny"].private = False
    with pytest.raises(UserError, match="is public: give --public"):
        push_folder(folder, "aoba/tiny", api=api(hub))


def test_what_the_hub_refuses_is_one_line(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for repo, token, why in (
        ("aoba/tiny", False, "no token for the Hub: run `hf auth login`"),
        ("aoba/tiny", "hf_wrong", "doesn't know this token"),
        ("aoba/tiny", READER, "may not write to aoba/tiny"),
        ("others/tiny", WRITER, "may not write to others/tiny"),
        ("a b", WRITER, "no name for a repository"),
        ("a/b/c", WRITER, "no name for a repository"),
    ):
        with pytest.raises(UserError, match=why) as caught:
            push_folder(folder, repo, api=api(hub, token))
        assert "\n" not in str(caught.value)
    (folder / "README.md").write_text("---\nlanguage: ja\n---\n")
    with pytest.raises(UserError, match=r"refuses the card .* license is missing"):
        push_folder(folder, "aoba/tiny", api=api(hub))
    with pytest.raises(UserError, match=r"can't reach http://127.0.0.1:9 .* check the connection"):
        push_folder(folder, "aoba/tiny", api=HfApi(endpoint="http://127.0.0.1:9", token=WRITER))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push_folder(folder, "aoba/tiny", api=api(hub))
