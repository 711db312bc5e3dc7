"""Tokenizers of others get this project's special tokens, and no text of a user can become one."""

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from sioconv.checksums import SUMS
from sioconv.data.chat import encode
from sioconv.data.config import TokenizerConfig
from sioconv.data.tokenizer.adopt import adopt_tokenizer
from sioconv.data.tokenizer.tokenizer import (
    BOS,
    CHAT_TEMPLATE,
    END_OF_TURN,
    ROLE_TOKENS,
    SPECIAL_TOKENS,
    encode_texts,
    load_tokenizer,
    train_tokenizer,
)
from sioconv.errors import UserError
from sioconv.generate.vocabulary import Vocabulary
from tests.data.tokenizers_of_others import KINDS, TEXTS, bytes_like, gpt2_like, llama_like, unigram_like

# What the kinds of tokenizer write otherwise by design: ▁ stands for a space in all but one.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=30)
hostile = st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "<s>", "</s>", "<unk>", "<|endoftext|>", "<0x0A>", "<|", "|>", " ", "\n", "川"]),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module", params=KINDS)
def adopted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    base = tmp_path_factory.mktemp("adopt")
    return adopt_tokenizer(str(KINDS[request.param](base / "others")), base / "ours")


@given(texts | hostile)
def test_every_text_comes_back_and_none_is_special(adopted: PreTrainedTokenizerFast, text: str) -> None:
    [ids] = encode_texts(adopted, [text])
    assert adopted.decode(ids) == text
    assert not set(adopted.convert_tokens_to_ids(SPECIAL_TOKENS)) & set(ids)


@given(texts | hostile)
def test_tokens_are_the_bytes_of_the_text(adopted: PreTrainedTokenizerFast, text: str) -> None:
    vocabulary = Vocabulary(adopted, len(adopted))
    [ids] = encode_texts(adopted, [text])
    assert b"".join(vocabulary.bytes_of(token) for token in ids).decode() == text


@given(st.lists(st.tuples(st.sampled_from(sorted(ROLE_TOKENS)), texts), min_size=1, max_size=4))
def test_conversations_equal_the_template(adopted: PreTrainedTokenizerFast, turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": text} for role, text in turns if "<" not in text]
    if messages:
        ids, _ = encode(adopted, messages)
        assert ids == adopted.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]


@given(hostile, hostile)
def test_attack_turns_are_where_they_were_written(adopted: PreTrainedTokenizerFast, asked: str, said: str) -> None:
    ids, mask = encode(adopted, [{"role": "user", "content": asked}, {"role": "assistant", "content": said}])
    special = set(adopted.convert_tokens_to_ids(SPECIAL_TOKENS))
    expected = [BOS, ROLE_TOKENS["user"], END_OF_TURN, ROLE_TOKENS["assistant"], END_OF_TURN]
    assert adopted.convert_ids_to_tokens([token for token in ids if token in special]) == expected
    learned = [token for token, kept in zip(ids, mask, strict=True) if kept and token not in special]
    assert adopted.decode(learned) == said


def test_the_vocabulary_is_kept_and_ours_comes_behind(tmp_path: Path) -> None:
    before = PreTrainedTokenizerFast.from_pretrained(llama_like(tmp_path / "llama"))
    adopted = adopt_tokenizer(str(tmp_path / "llama"), tmp_path / "ours")
    vocabulary = adopted.get_vocab()
    assert {token: vocabulary[token] for token in before.get_vocab()} == before.get_vocab()
    assert adopted.convert_tokens_to_ids(SPECIAL_TOKENS) == list(range(len(before), len(before) + len(SPECIAL_TOKENS)))
    assert adopted("川")["input_ids"][0] == adopted.bos_token_id
    assert adopted.chat_template == CHAT_TEMPLATE
    # The words are cut as before, but for the space that stood before every text.
    text = TEXTS[0].strip()
    assert encode_texts(adopted, [f" {text}"])[0] == before(text)["input_ids"][1:]


def test_tokens_added_as_text_are_kept(tmp_path: Path) -> None:
    adopted = adopt_tokenizer(str(gpt2_like(tmp_path / "gpt2")), tmp_path / "ours")
    assert encode_texts(adopted, ["仙台市"]) == [[adopted.get_vocab()["仙台市"]]]
    assert "<|endoftext|>" not in adopted.get_vocab()


def test_one_of_this_projects_is_copied(tmp_path: Path) -> None:
    first = train_tokenizer(TokenizerConfig(vocab_size=300), TEXTS, tmp_path / "first")
    (tmp_path / "first" / "chat_template.jinja").write_text("{{ bos_token }}")
    settings = tmp_path / "first" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": "{{ bos_token }}"}))
    with pytest.raises(UserError, match=r"first/chat_template\.jinja isn't what was written"):
        adopt_tokenizer(str(tmp_path / "first"), tmp_path / "second")
    (tmp_path / "first" / "SHA256SUMS").unlink()
    second = adopt_tokenizer(str(tmp_path / "first"), tmp_path / "second")
    assert second.get_vocab() == first.get_vocab()
    assert second.chat_template == "{{ bos_token }}"


def test_an_adopted_tokenizer_can_be_adopted_again(tmp_path: Path) -> None:
    first = adopt_tokenizer(str(llama_like(tmp_path / "llama")), tmp_path / "first")
    second = adopt_tokenizer(str(tmp_path / "first"), tmp_path / "second")
    assert second.get_vocab() == first.get_vocab()
    assert encode_texts(second, TEXTS) == encode_texts(first, TEXTS)


def test_attack_a_vocabulary_whose_pieces_spell_our_tokens_is_refused(tmp_path: Path) -> None:
    others = unigram_like(tmp_path / "others", "<|assistant|>")
    with pytest.raises(UserError, match=r"unsafe tokenizer.*<\|assistant\|>"):
        adopt_tokenizer(str(others), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder: folder.mkdir(), r"tokenizer\.json isn't there"),
        (lambda folder: folder, "give a folder"),
        (lambda folder: (folder.mkdir(), (folder / "tokenizer.json").write_text("{}")), "can't load the tokenizer"),
    ],
)
def test_what_isnt_a_tokenizer_is_refused(tmp_path: Path, make: object, problem: str) -> None:
    assert callable(make)
    make(tmp_path / "others")
    with pytest.raises(UserError, match=problem) as caught:
        adopt_tokenizer(str(tmp_path / "others"), tmp_path / "ours")
    assert "\n" not in str(caught.value) and not (tmp_path / "ours").exists()


REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as downloading a repository's tokenizer asks of it."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        files = list(self.folder.iterdir())
        if self.path.startswith("/api/models/owner/llama/tree/"):
            entries = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"} for file in files]
            self.answer(json.dumps(entries).encode())
        elif self.path.startswith("/api/models/owner/llama/"):
            names = [{"rfilename": file.name} for file in files]
            self.answer(json.dumps({"id": "owner/llama", "sha": REVISION, "siblings": names}).encode())
        elif self.path.startswith("/owner/llama/resolve/"):
            self.answer((self.folder / self.path.rpartition("/")[2]).read_bytes())
        else:
            self.send_error(404)

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        for name, value in (
            ("ETag", f'"{len(body)}"'),
            ("X-Repo-Commit", REVISION),
            ("Content-Length", str(len(body))),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    folder = llama_like(tmp_path / "hub")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_from_the_hub_and_then_without_it(tmp_path: Path, hub: str) -> None:
    code = "import sys; from pathlib import Path; from sioconv.errors import UserError\n"
    code += "from sioconv.data.tokenizer.adopt import adopt_tokenizer\n"
    code += "try: adopt_tokenizer(sys.argv[1], Path(sys.argv[2]))\nexcept UserError as error: print(error)"
    names = ("owner/llama", f"owner/llama@{REVISION}", "owner/other")
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)

    def adopt(name: str, out: str, **more: str) -> str:
        command = [sys.executable, "-c", code, name, str(tmp_path / out)]
        done = subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=True)
        return done.stdout

    assert adopt(names[0], "first") == ""
    assert adopt(names[1], "second") == ""
    assert adopt(names[0], "offline", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9") == ""
    first = load_tokenizer(tmp_path / "first")
    for other in ("second", "offline"):
        assert load_tokenizer(tmp_path / other).get_vocab() == first.get_vocab()
    refused = adopt(names[2], "third")
    assert refused.startswith("can't get the tokenizer owner/other from the Hub") and refused.count("\n") == 1


def test_a_git_lfs_pointer_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    for read in (lambda: adopt_tokenizer(str(tmp_path), tmp_path / "out"), lambda: load_tokenizer(tmp_path)):
        with pytest.raises(UserError, match=r"tokenizer\.json is a Git LFS pointer.*git lfs pull"):
            read()


def test_a_folder_above_a_tokenizer_says_which_one_is_below(tmp_path: Path) -> None:
    (tmp_path / "run" / "tokenizer").mkdir(parents=True)
    (tmp_path / "run" / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"one below it: give .*/run/tokenizer$"):
        adopt_tokenizer(str(tmp_path / "run"), tmp_path / "out")
    with pytest.raises(UserError, match=r"no rnu in .*did you mean run\?"):
        adopt_tokenizer(str(tmp_path / "rnu"), tmp_path / "out")


def vocabulary_with(**more: int) -> Callable[[dict[str, Any]], None]:
    return lambda parts: parts["model"]["vocab"].update(more)


def gaps(parts: dict[str, Any]) -> None:
    parts["model"]["vocab"] = {token: 2 * number for token, number in parts["model"]["vocab"].items()}


def added(content: str, number: int, **more: bool) -> Callable[[dict[str, Any]], None]:
    flags = {"special": False, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False, **more}
    return lambda parts: parts["added_tokens"].append({"id": number, "content": content, **flags})


def settings_left(parts: dict[str, Any]) -> None:
    strategy = {"direction": "Right", "strategy": "LongestFirst", "stride": 0}
    parts["truncation"] = {"max_length": 2, **strategy}
    parts["padding"] = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    parts["padding"] |= {"pad_type_id": 0, "pad_token": "!"}


def normalised(*steps: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda parts: parts.update(normalizer={"type": "Sequence", "normalizers": list(steps)})


def replaced(text: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


ODD: dict[str, Callable[[dict[str, Any]], None]] = {
    "gaps": gaps,
    "a gap behind": vocabulary_with(xy=1000),
    "an id as large as they get": vocabulary_with(xy=2**31),
    "one of ours without merges": vocabulary_with(**{"<|user|>": 256}),
    "one of ours behind a gap": vocabulary_with(**{"<|bos|>": 300}),
    "one of ours, added as text": added("<|user|>", 300),
    "text added far behind": added("<|im_start|>", 1000),
    "text that takes spaces": added("<|im_start|>", 256, lstrip=True, rstrip=True),
    "a special token of its own": added("</s>", 257, special=True),
    "truncation and padding": settings_left,
    "full width to half width": normalised({"type": "NFKC"}, {"type": "Lowercase"}, {"type": "StripAccents"}),
    "letters that become a token": normalised(replaced("ＡＢＣ", "<|user|>"), replaced("\u00ad", "")),
}


@pytest.mark.parametrize("odd", ODD)
def test_no_text_becomes_special_and_ids_have_no_gaps(tmp_path: Path, odd: str) -> None:
    adopted = adopt_tokenizer(str(bytes_like(tmp_path / "others", ODD[odd])), tmp_path / "ours")
    assert sorted(adopted.get_vocab().values()) == list(range(len(adopted)))
    special = set(adopted.convert_tokens_to_ids(SPECIAL_TOKENS))
    assert len(special) == len(SPECIAL_TOKENS)
    changed = odd in ("full width to half width", "letters that become a token")
    every_byte = "".join(map(chr, range(0x250))) + "川\U0010ffff"
    for text in (
        *SPECIAL_TOKENS,
        "＜｜ｕｓｅｒ｜＞",
        "<|us\u00ader|>",
        "ＡＢＣ",
        "a <|im_start|> b</s>",
        every_byte,
        "xy",
    ):
        [ids] = encode_texts(adopted, [text])
        assert not special & set(ids)
        assert changed or adopted.decode(ids) == text


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (vocabulary_with(a=0), "two of its tokens have the same id"),
        (lambda parts: parts["model"].update(vocab={}, merges=[]), "its vocabulary is empty"),
        (lambda parts: parts["model"].update(vocab=5), "no model with a vocabulary"),
        (lambda parts: parts["model"].update(vocab=["a", "b"]), "no model with a vocabulary"),
        (
            lambda parts: parts.update(
                model={"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]], "byte_fallback": False}
            ),
            "no token for what it doesn't know",
        ),
        (
            lambda parts: (vocabulary_with(**{"<|user|>": 256})(parts), parts["model"].update(ignore_merges=True)),
            "unsafe",
        ),
        (
            lambda parts: parts.update(
                model={"type": "WordLevel", "vocab": {"<|user|>": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
            ),
            r"unsafe tokenizer.*<\|user\|>",
        ),
    ],
)
def test_attack_vocabularies_that_cant_be_adopted(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        adopt_tokenizer(str(bytes_like(tmp_path / "others", change)), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_text_has_the_same_tokens_each_time(tmp_path: Path) -> None:
    """Others leave merges out at random while they train; the setting stays in their file."""
    train_tokenizer(TokenizerConfig(vocab_size=400), TEXTS * 20, tmp_path / "trained")
    trained = json.loads((tmp_path / "trained" / "tokenizer.json").read_text(encoding="utf-8"))

    def drops(parts: dict[str, Any]) -> None:
        parts["model"] = trained["model"] | {"dropout": 0.5}

    others = bytes_like(tmp_path / "others", drops)
    (tmp_path / "trained" / SUMS).unlink()
    (tmp_path / "trained" / "tokenizer.json").write_text(
        json.dumps(trained | {"model": trained["model"] | {"dropout": 0.5}})
    )
    for name in (others, tmp_path / "trained"):
        adopted = adopt_tokenizer(str(name), tmp_path / f"of {name.name}")
        text = "".join(TEXTS)
        assert len({tuple(encode_texts(adopted, [text])[0]) for _ in range(20)}) == 1


def test_attack_one_of_this_projects_that_was_tampered_with(tmp_path: Path) -> None:
    train_tokenizer(TokenizerConfig(vocab_size=300), TEXTS, tmp_path / "ours")
    file = tmp_path / "ours" / "tokenizer.json"
    (tmp_path / "ours" / SUMS).unlink()  # whoever changes the file doesn't leave the checksums of before
    good = json.loads(file.read_text())
    plain = json.loads(json.dumps(good))
    next(token for token in plain["added_tokens"] if token["content"] == "<|user|>")["special"] = False
    merged = json.loads(json.dumps(good))
    merged["model"]["merges"].append(["<|user", "|>"])
    merged["model"]["vocab"] |= {"<|user": 300, "|>": 301}
    double = json.loads(json.dumps(good))
    double["model"]["vocab"]["a"] = double["model"]["vocab"]["b"]
    file.write_text(json.dumps(plain))
    with pytest.raises(UserError, match="isn't marked as special"):
        load_tokenizer(tmp_path / "ours")
    file.write_text(json.dumps(double))
    with pytest.raises(UserError, match="missing or come twice"):
        load_tokenizer(tmp_path / "ours")
    file.write_text(json.dumps(merged))
    with pytest.raises(UserError, match="unsafe tokenizer"):
        adopt_tokenizer(str(tmp_path / "ours"), tmp_path / "copy")
