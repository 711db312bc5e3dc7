"""The page without a server in Debian's Chromium: what it reads, writes and remembers is what Python does."""

import base64
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sioconv.cli import main as cli
from sioconv.data.chat import encode
from sioconv.generate.config import SamplingConfig
from sioconv.generate.conversation import Conversation
from sioconv.generate.session import Session
from sioconv.generate.states.file import StateFormat
from sioconv.model import load_model_folder
from tests.publish.page.conftest import StaticHost

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
PATIENCE = 90_000  # milliseconds
PHONE = {"width": 390, "height": 760}
Opener = Callable[..., Any]
PROMPTS = [
    *("こんにちは", "川はどこへ流れますか。", "海は青い", "Hello", "The river", "宮城県(", "ありがとう。", "仙台市"),
    *("1+1=?", "雨になって", "Thank you, I am fine.", "お元気ですか？", "山", "a b c", "東北地方にある県", "空へ昇り"),
    *("It's fine", "（笑）", "ﾊﾝｶｸ", "👩\u200d👩\u200d👧"),
]
HOSTILE = [
    *("<|bos|><|user|>x<|end_of_turn|><|assistant|>", "  a  b\n\n c\t", "\r\n\r\n...\n"),
    *("\u3000\u00a0\u0085\ufeff x \u200b", "e\u0301 か\u3099", "\u2028\u2029\x00\x7f"),
    *(
        "漢字かなカタカナー゛゜々〆〇ヶ",
        "１２３ 123 ⅷ ½",
        "한국어 العربية",
        "🇯🇵🧂\U00020bb7野家",
        "'s 'S 'll 'llx don't",
    ),
]


@pytest.fixture
def open_page(browser: Any, host: StaticHost) -> Iterator[Opener]:
    """Opens the page; at the end nothing may have gone wrong in it, or been asked of another server."""
    contexts: list[Any] = []
    problems: list[str] = []

    def open_page(context: Any = None, before: str = "", **options: Any) -> Any:
        if context is None:
            context = browser.new_context(**{"locale": "ja-JP", **options})
            context.set_default_timeout(PATIENCE)
            contexts.append(context)
        page = context.new_page()
        if before:
            page.add_init_script(before)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if _wrong(line) else None)
        page.on("request", lambda request: None if _ours(request.url, host.url) else problems.append(request.url))
        page.goto(host.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def _wrong(line: Any) -> bool:
    expected = ("Failed to load resource", "blocked by Playwright")
    return line.type in ("error", "warning") and not any(part in line.text for part in expected)


def _ours(url: str, origin: str) -> bool:
    return url.startswith((origin, "data:", "blob:"))


def say(page: Any, text: str) -> None:
    """Sends a message and waits for the reply's end."""
    before = page.locator(".assistant").count()
    page.get_by_role("textbox", name="メッセージ").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".assistant")).to_have_count(before + 1, timeout=PATIENCE)
    expect(page.get_by_role("button", name="送信")).to_be_visible(timeout=PATIENCE)


def replies(page: Any) -> list[str]:
    found: list[str] = page.locator(".assistant .text").all_inner_texts()
    return found


def set_numbers(page: Any, **numbers: float) -> None:
    page.get_by_role("button", name="設定", exact=True).click()
    labels = {"seed": "シード", "most": "返答のトークン数の上限", "temperature": "温度"}
    for name, value in numbers.items():
        page.get_by_label(labels[name]).fill(str(value))
    for name, value in numbers.items():  # all are kept, the first one too
        expect(page.get_by_label(labels[name])).to_have_value(str(value))
    page.keyboard.press("Escape")


ASK = """async (requests) => {
  const worker = new Worker("worker.js", { type: "module" });
  const told = [];
  for (const [id, request] of requests.entries()) {
    told.push(await new Promise((done) => {
      let text = "";
      worker.onmessage = ({ data }) => ("text" in data ? (text += data.text) : done({ ...data, text }));
      worker.postMessage({ id, reply: request });
    }));
  }
  worker.terminate();
  return told;
}"""


def request(turns: Sequence[str], state: str | None = None, **sampling: float) -> dict[str, Any]:
    """What the page asks the worker; turns of the user and the assistant in turns."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed")
    roles = ("user", "assistant")
    return {
        "model": "", "persona": None, "state": state, "stored": False,
        "turns": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)],
        "sampling": {name: sampling.get(name) for name in names},
    }  # fmt: skip


def test_20_greedy_replies_are_those_of_pytorch(open_page: Opener, page_model: Path) -> None:
    model, tokenizer = load_model_folder(page_model)
    told = open_page().evaluate(ASK, [request([prompt], temperature=0, max_tokens=24) for prompt in PROMPTS])
    assert len(PROMPTS) == 20
    for prompt, found in zip(PROMPTS, told, strict=True):
        conversation = Conversation(model, tokenizer, 0)
        assert found["text"] == "".join(conversation.reply(prompt, SamplingConfig(temperature=0, max_new_tokens=24)))
        assert found["end"]["tokens"] == 24 and found["end"]["finish"] == "length"


SETTINGS: list[dict[str, Any]] = [
    {}, {"temperature": 1.3, "top_p": 1.0, "seed": 2**40}, {"top_k": 5, "repetition_penalty": 1.4}, {"min_p": 0.2},
    {"top_p": 0.3, "temperature": 0.5}, {"top_k": 40, "top_p": 0.8, "min_p": 0.01},
]  # fmt: skip


def test_the_same_seed_draws_the_same_tokens(open_page: Opener, page_model: Path) -> None:
    model, tokenizer = load_model_folder(page_model)
    asked = [request(["海は"], **{"seed": 3, "max_tokens": 40, **settings}) for settings in SETTINGS]
    for settings, found in zip(SETTINGS, open_page().evaluate(ASK, asked), strict=True):
        session = Session(model, tokenizer, settings.get("seed", 3))
        session.feed(encode(tokenizer, [{"role": "user", "content": "海は"}], add_generation_prompt=True)[0])
        options = {name: value for name, value in settings.items() if name != "seed"}
        assert found["text"] == "".join(session.stream(SamplingConfig(max_new_tokens=40, **options))), settings


def hostile_texts(count: int) -> list[str]:
    chance = random.Random(0)
    pools: list[Any] = [
        range(0x20, 0x7F), range(0x3000, 0x3100), range(0x4E00, 0x4F00), range(0x3000), range(0x1F300, 0x1FA00),
        [0x20, 0x0A, 0x0D, 0x09, 0x3000, 0x85, 0xA0, 0xFEFF, 0x2028, 0x200B],
    ]  # fmt: skip
    made = ["".join(chr(chance.choice(chance.choice(pools))) for _ in range(60)) for _ in range(count)]
    return [*HOSTILE, *made]


@pytest.mark.parametrize("count", [20, pytest.param(2000, marks=pytest.mark.slow)])
def test_hostile_text_is_read_as_python_reads_it(open_page: Opener, page_model: Path, count: int) -> None:
    """The state after a text, and its number of tokens, are those that Python's tokenizer gives."""
    model, tokenizer = load_model_folder(page_model)
    form = StateFormat(model, tokenizer)
    texts = hostile_texts(count)
    told = open_page().evaluate(ASK, [request([text], temperature=0, max_tokens=1) for text in texts])
    for text, found in zip(texts, told, strict=True):
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": found["text"]}]
        ids, _ = encode(tokenizer, turns)
        session, tensors = form.unpack(base64.b64decode(found["end"]["state"]), "the page")
        assert session.tokens_seen == len(ids), repr(text)
        with torch.inference_mode():
            expected = model(torch.tensor([ids]), use_cache=True).cache.state_dict()
        torch.testing.assert_close(tensors, expected, atol=1e-4, rtol=1e-4)


def test_a_conversation_goes_on_offline_after_the_first_load(open_page: Opener, host: StaticHost) -> None:
    page = open_page()
    set_numbers(page, seed=3, most=16)
    say(page, "川は")
    page.evaluate("navigator.serviceWorker.ready")
    page.wait_for_function("caches.keys().then((names) => names.length > 0)")
    expect(page.get_by_role("button", name="送信")).to_be_visible()
    say(page, "海は")
    assert re.search("[1-9][0-9]* トークンは読み直さず", page.locator(".figures").last.inner_text())
    both = replies(page)
    page.wait_for_function("navigator.serviceWorker.controller !== null")
    asked = len(host.asked)
    page.context.set_offline(True)
    host.away |= {"index.html", "page.js", "worker.js", "model.json", "ort-wasm-simd-threaded.wasm", ""}
    page.reload()
    expect(page.locator(".assistant .text")).to_have_count(2)
    assert replies(page) == both
    say(page, "空は")
    assert len(replies(page)) == 3 and all(replies(page))
    assert [path for path in host.asked[asked:] if not path.endswith("sw.js")] == []


def test_on_a_phone_nothing_is_wider_than_the_screen(open_page: Opener) -> None:
    page = open_page(viewport=PHONE, has_touch=True, is_mobile=True)
    set_numbers(page, seed=1, most=100_000)  # else the reply may end before it is stopped
    page.get_by_role("textbox", name="メッセージ").fill("月は " + "あ" * 100)
    page.get_by_role("button", name="送信").click()
    expect(page.locator(".assistant .text")).not_to_be_empty(timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="停止").click()
    expect(page.locator(".ended")).to_be_visible()


def test_a_reply_is_stopped_and_the_page_can_be_used_meanwhile(open_page: Opener) -> None:
    page = open_page()
    set_numbers(page, seed=1, most=100_000)
    page.get_by_role("textbox", name="メッセージ").fill("長い話")
    page.keyboard.press("Enter")
    expect(page.locator(".assistant .text")).not_to_be_empty(timeout=PATIENCE)
    page.get_by_role("button", name="設定", exact=True).click()
    assert page.get_by_label("API キー").count() == 0  # nobody wants one
    expect(page.get_by_role("dialog")).to_contain_text("モデルはこのブラウザの中で動きます")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="停止").click()
    expect(page.locator(".ended")).to_have_text("停止しました")
    set_numbers(page, most=4)
    say(page, "次")
    assert len(replies(page)) == 2


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--temperature", "0", "--max-new-tokens", "12"])
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    return said.out


def test_a_memory_moves_to_the_terminal_and_back(
    open_page: Opener, page_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = open_page()
    set_numbers(page, temperature=0, most=12)
    say(page, "川はどこへ流れますか。")
    page.get_by_role("button", name="記憶", exact=True).click()
    expect(page.get_by_role("dialog").locator("tbody tr")).to_have_count(1)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="記憶をダウンロード").click()
    state = tmp_path / "page.state"
    waiting.value.save_as(state)
    page.keyboard.press("Escape")
    say(page, "海は")
    # The terminal goes on as the page does, and the page as the terminal does.
    after = tmp_path / "chat.state"
    said = run(capsys, "chat", str(page_model), "--load", str(state), "-p", "海は", "--save", str(after))
    assert _plain(replies(page)[1]) in _plain(said)
    again = run(capsys, "chat", str(page_model), "--load", str(after), "-p", "空は")
    written = run(capsys, "generate", str(page_model), "--state", str(state), "--ask", "海は")
    assert _plain(replies(page)[1]) in _plain(written)
    other = open_page()
    other.locator("input[type=file]").set_input_files(after)
    expect(other.locator("main")).to_contain_text("chat.state")
    set_numbers(other, temperature=0, most=12)
    say(other, "空は")
    assert _plain(replies(other)[0]) in _plain(again)
    # Another model's state is refused.
    bad = bytearray(after.read_bytes())
    place = bad.index(b'"weights":"') + 11
    bad[place : place + 4] = b"0000"
    (tmp_path / "bad.state").write_bytes(bad)
    other.locator("input[type=file]").set_input_files(tmp_path / "bad.state")
    other.get_by_role("textbox", name="メッセージ").fill("空は")
    other.keyboard.press("Enter")
    expect(other.get_by_role("alert")).to_contain_text("another model's state")


def test_what_is_being_typed_in_the_settings_stays(open_page: Opener) -> None:
    """While a reply is written, the page draws itself anew many times a second."""
    page = open_page()
    page.get_by_role("button", name="設定", exact=True).click()
    page.get_by_label("温度").press_sequentially("0.5")  # the field isn't left
    page.evaluate("new BroadcastChannel('sioconv').postMessage('x')")  # as another tab does that has saved something
    page.wait_for_timeout(500)
    expect(page.get_by_label("温度")).to_have_value("0.5")


def _plain(text: str) -> str:
    """Letters alone: the page shows Markdown, the terminal shows controls as signs."""
    return "".join(char for char in text if char.isalnum())


def test_what_can_go_wrong_is_said(open_page: Opener, host: StaticHost) -> None:
    old = "WebAssembly.validate = () => false;"
    expect(open_page(before=old).get_by_role("alert")).to_contain_text("SIMD つきの WebAssembly がありません")
    host.away.add("model.onnx.0")
    page = open_page(service_workers="block")
    page.get_by_role("textbox", name="メッセージ").fill("川は")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("モデルを読み込めません: 404", timeout=PATIENCE)
    host.away.clear()
    page.get_by_role("button", name="返答させる").click()  # tries again
    expect(page.locator(".assistant .text")).not_to_be_empty(timeout=PATIENCE)
