"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from sioconv.serve.config import ServeConfig
from tests.serve.conftest import Running, serving
from tests.serve.stand_in import STATE, StandIn

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src/sioconv"
BUILT, ALONE = SOURCE / "serve/page", SOURCE / "publish/page/built"
PHONE = {"width": 390, "height": 760}
PATIENCE = 60_000  # milliseconds: a busy machine may have to compile the kernels first
expect.set_options(timeout=PATIENCE)
Opener = Callable[..., Page]


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn(BUILT)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.more.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_page(browser: Browser, stand_in: StandIn) -> Iterator[Opener]:
    """Opens the page; at the end nothing may have gone wrong in it, or been asked of another server."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_page(url: str = stand_in.url, context: BrowserContext | None = None, **options: Any) -> Page:
        if context is None:
            context = browser.new_context(**{"locale": "ja-JP", **options})
            context.set_default_timeout(PATIENCE)
            contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("request", lambda request: None if _ours(request.url, url) else problems.append(request.url))
        # What the server refuses is an error of the console as well.
        page.on("console", lambda line: problems.append(line.text) if _wrong(line.type, line.text) else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def _ours(url: str, origin: str) -> bool:
    return url.startswith((origin.partition("#")[0], "data:", "blob:"))


def _wrong(kind: str, text: str) -> bool:
    return kind in ("error", "warning") and "Failed to load resource" not in text


def say(page: Page, text: str) -> None:
    """Sends a message and waits for the reply's end."""
    page.get_by_role("textbox", name=re.compile("^(メッセージ|Message)$")).fill(text)
    before = page.locator(".user").count()
    page.keyboard.press("Enter")
    expect(page.locator(".user")).to_have_count(before + 1)  # else the button may be that of the time before
    expect(page.get_by_role("button", name=re.compile("送信|Send"))).to_be_visible()


def replies(page: Page) -> list[str]:
    return page.locator(".assistant .text").all_inner_texts()


def said(page: Page) -> list[str]:
    return page.locator(".user .text").all_inner_texts()


def button(page: Page, name: str, at: int = -1) -> Any:
    return page.get_by_role("button", name=name, exact=True).nth(at)


def test_a_conversation_of_two_turns_is_there_after_a_reload(open_page: Opener, stand_in: StandIn) -> None:
    page = open_page()
    say(page, "こんにちは")
    expect(page.locator(".assistant .text")).to_have_text("1：こんにちはですね。")
    say(page, "海は青い")
    expect(page.locator(".assistant .text").last).to_have_text("3：海は青いですね。")
    assert [turn["role"] for turn in stand_in.last["messages"]] == ["user", "assistant", "user"]
    assert stand_in.last["messages"][1]["content"] == "1：こんにちはですね。"
    assert stand_in.last["model"] == "tiny"
    figures = page.locator(".figures").last.inner_text()
    assert all(part in figures for part in ("トークン/秒", "6 トークン", "4 トークンは読み直さず", "状態 3.1 kB"))
    page.reload()
    expect(page.locator(".assistant .text").last).to_have_text("3：海は青いですね。")
    assert said(page) == ["こんにちは", "海は青い"]
    assert page.title() == "こんにちは – SioConv"


def set_seed(page: Page, most: int) -> None:
    """The same words make the same reply, of so many tokens at most."""
    button(page, "設定").click()
    page.get_by_label("シード").fill("3")
    page.get_by_label("返答のトークン数の上限").fill(str(most))
    page.keyboard.press("Escape")


def warm(server: Running) -> None:
    """The first reply on a machine compiles the kernels, which may take a minute."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "store": False}
    httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=300).raise_for_status()


def test_a_real_model_answers_and_remembers(
    open_page: Opener, server: Running, served_folder: Path, tmp_path: Path
) -> None:
    warm(server)
    page = open_page(server.url + "/")
    set_seed(page, 16)
    say(page, "川はどこへ流れますか。")
    say(page, "海の水はどこへ昇りますか。")
    both = replies(page)
    assert len(both) == 2
    assert "トークンは読み直さず" in page.locator(".figures").last.inner_text()
    page.reload()
    expect(page.locator(".assistant .text")).to_have_count(2)
    assert replies(page) == both
    with page.expect_download() as waiting:
        button(page, "ダウンロード").click()
    waiting.value.save_as(tmp_path / "talk.json")
    say(page, "ありがとう。")
    edited = button(page, "編集", 0)
    button(page, "記憶").click()
    expect(page.get_by_role("dialog").locator("tbody tr")).to_have_count(2)
    page.keyboard.press("Escape")
    # Another browser and another server, which keeps nothing: the file alone remembers.
    with serving(f"tiny={served_folder}", store=None) as fresh:
        other = open_page(fresh.url + "/")
        other.locator("input[type=file]").set_input_files(tmp_path / "talk.json")
        expect(other.locator(".assistant .text")).to_have_count(2)
        with other.expect_request("**/v1/chat/completions") as asked:
            say(other, "ありがとう。")
        assert [turn["content"] for turn in asked.value.post_data_json["messages"]] == ["ありがとう。"]
        assert replies(other) == replies(page)
    edited.click()
    page.get_by_role("textbox", name="メッセージを編集").fill("雨はどこへ帰りますか。")
    button(page, "保存して送信").click()
    expect(page.locator(".versions")).to_have_text("2/2")
    assert said(page) == ["雨はどこへ帰りますか。"]


def test_a_real_model_is_stopped(open_page: Opener, served_folder: Path) -> None:
    """It writes thousands of tokens a second: the page keeps up, and can be used meanwhile."""
    with serving(f"tiny={served_folder}", config=ServeConfig(max_new_tokens=1_000_000)) as server:
        warm(server)
        page = open_page(server.url + "/")
        set_seed(page, 1_000_000)
        page.get_by_role("textbox", name="メッセージ").fill("長い話をしてください。")
        page.keyboard.press("Enter")
        expect(page.locator(".assistant .text")).not_to_be_empty()
        button(page, "停止").click()
        expect(page.locator(".ended")).to_have_text("停止しました")
        assert server.idle()


def test_a_reply_that_is_stopped_keeps_its_text_and_frees_the_server(open_page: Opener, stand_in: StandIn) -> None:
    stand_in.more.clear()
    page = open_page()
    page.get_by_role("textbox", name="メッセージ").fill("長い話")
    button(page, "送信").click()
    expect(page.locator(".assistant .text")).to_have_text("1：")
    button(page, "停止").click()
    expect(page.locator(".ended")).to_have_text("停止しました")
    assert stand_in.gone.wait(60)
    stand_in.more.set()
    say(page, "次")
    assert [turn["content"] for turn in stand_in.last["messages"]] == ["長い話", "1：", "次"]


def test_a_reply_that_the_page_left_is_stopped_after_a_reload(open_page: Opener, stand_in: StandIn) -> None:
    stand_in.more.clear()
    page = open_page()
    page.get_by_role("textbox", name="メッセージ").fill("長い話")
    button(page, "送信").click()
    expect(page.locator(".assistant .text")).to_have_text("1：")
    other = open_page(page.url, context=page.context)
    for _ in range(50):  # what is being written is kept from time to time
        if replies(other) == ["1："]:
            break
        other.reload()
        expect(other.locator(".user").first).to_be_visible()
    assert replies(other) == ["1："]
    page.reload()
    expect(page.locator(".ended")).to_have_text("停止しました")
    assert replies(page) == ["1："]


def test_a_message_that_is_sent_before_the_models_are_known_is_answered(open_page: Opener, stand_in: StandIn) -> None:
    stand_in.ready.clear()
    page = open_page()
    page.get_by_role("textbox", name="メッセージ").fill("月")
    page.keyboard.press("Enter")
    expect(button(page, "停止")).to_be_visible()
    stand_in.ready.set()
    expect(page.locator(".assistant .text")).to_have_text("1：月ですね。")


def test_a_regenerated_reply_is_another_version_of_it(open_page: Opener, stand_in: StandIn) -> None:
    page = open_page()
    say(page, "月")
    stand_in.reply = lambda _: ["ほかの返事"]
    button(page, "再生成").click()
    expect(page.locator(".assistant .text")).to_have_text("ほかの返事")
    expect(page.locator(".versions")).to_have_text("2/2")
    button(page, "前の版").click()
    expect(page.locator(".assistant .text")).to_have_text("1：月ですね。")
    page.reload()
    expect(page.locator(".versions")).to_have_text("1/2")
    assert replies(page) == ["1：月ですね。"]


def test_an_earlier_message_is_edited_and_its_old_branch_stays(open_page: Opener, stand_in: StandIn) -> None:
    page = open_page()
    say(page, "月")
    say(page, "日")
    button(page, "編集", 0).click()
    page.get_by_role("textbox", name="メッセージを編集").fill("星")
    button(page, "保存して送信").click()
    expect(page.locator(".assistant .text")).to_have_text("1：星ですね。")
    assert said(page) == ["星"]
    assert [turn["content"] for turn in stand_in.last["messages"]] == ["星"]
    button(page, "前の版").click()
    expect(page.locator(".user .text")).to_have_text(["月", "日"])
    button(page, "編集", 1).click()
    page.get_by_role("textbox", name="メッセージを編集").fill("モデルはこう言った")
    button(page, "保存").click()
    assert said(page) == ["月"]
    say(page, "そう？")
    assert [turn["content"] for turn in stand_in.last["messages"]] == ["月", "モデルはこう言った", "そう？"]


HOSTILE = [
    "<img src=x onerror=\"alert('img')\"><script>alert('script')</script>",
    "\n\n[link](javascript:alert(1)) [site](https://example.com) ![](https://example.com/pixel.png)\n\n",
    "<svg onload=alert(1)><style>body{display:none}</style><iframe srcdoc='<script>alert(2)</script>'></iframe>\n\n",
    "# <b onclick=alert(3)>bold</b> **strong** `</code><script>alert(4)</script>`\n\n",
    "<details open ontoggle=alert(5)>\n",
    "\n| a |\n|---|\n| <form action=//example.com><input autofocus onfocus=alert(6)> |\n",
]


def test_nothing_that_is_written_runs_or_loads(open_page: Opener, stand_in: StandIn) -> None:
    stand_in.reply = lambda _: [sign for piece in HOSTILE for sign in piece]
    page = open_page()
    text = HOSTILE[0] + "</textarea><script>alert('title')</script>"
    say(page, text)
    say(page, "**once** more")
    for _ in range(2):
        assert said(page)[0] == text
        reply = page.locator(".assistant .text").last
        names = set(reply.locator("*").evaluate_all("all => all.map(each => each.localName)"))
        assert names <= {"p", "a", "h3", "strong", "code", "table", "thead", "tbody", "tr", "th", "td", "br"}
        allowed = {"href", "rel", "target", "tabindex"}
        script = "all => all.flatMap(each => each.getAttributeNames())"
        assert set(reply.locator("*").evaluate_all(script)) <= allowed
        links = reply.locator("a[href]").evaluate_all("all => all.map(each => [each.href, each.rel])")
        assert links == [["https://example.com/", "noopener noreferrer nofollow"]]
        shown = reply.inner_text()
        assert "<img src=x onerror" in shown
        assert "<script>alert('script')</script>" in shown
        page.reload()
        expect(page.locator(".assistant .text").last).to_contain_text("onerror")


def test_a_conversation_travels_with_its_state(open_page: Opener, stand_in: StandIn, tmp_path: Path) -> None:
    page = open_page()
    say(page, "月")
    with page.expect_download() as waiting:
        button(page, "ダウンロード").click()
    file = tmp_path / "talk.json"
    waiting.value.save_as(file)
    assert waiting.value.suggested_filename == "月.json"
    other = open_page(locale="en-US")
    other.locator("input[type=file]").set_input_files(file)
    expect(other.locator(".assistant .text")).to_have_text("1：月ですね。")
    say(other, "日")
    sent = stand_in.last
    assert (sent["state"], sent["store"]) == (STATE, False)
    assert [turn["content"] for turn in sent["messages"]] == ["日"]
    # Without a state that fits, the whole conversation is read again.
    value = json.loads(file.read_text("utf-8"))
    value["messages"][1]["state"]["fingerprint"] = "fp_other"
    file.write_text(json.dumps(value), "utf-8")
    other.locator("input[type=file]").set_input_files(file)
    expect(other.locator(".assistant .text")).to_have_count(1)
    expect(other.locator(".assistant .text")).to_have_text("1：月ですね。")
    say(other, "日")
    assert "state" not in stand_in.last
    assert [turn["content"] for turn in stand_in.last["messages"]] == ["月", "1：月ですね。", "日"]


def test_a_state_file_and_a_list_of_messages_are_taken(open_page: Opener, stand_in: StandIn, tmp_path: Path) -> None:
    page = open_page()
    (tmp_path / "talk.state").write_bytes((2).to_bytes(8, "little") + b"{}rest")
    page.locator("input[type=file]").set_input_files(tmp_path / "talk.state")
    expect(page.locator(".hint")).to_contain_text("talk.state")
    say(page, "続き")
    assert stand_in.last["state"] == "AgAAAAAAAAB7fXJlc3Q="
    turns = [{"role": "system", "content": "短く"}, {"role": "user", "content": "雨"}]
    (tmp_path / "list.json").write_text(json.dumps({"messages": turns}), "utf-8")
    page.locator("input[type=file]").set_input_files(tmp_path / "list.json")
    expect(page.locator(".user .text")).to_have_text("雨")
    button(page, "返答させる").click()
    expect(page.locator(".assistant .text")).to_have_text("2：雨ですね。")
    assert stand_in.last["messages"] == turns
    assert "state" not in stand_in.last


BAD_FILES = {
    "empty": b"",
    "text": b"hello",
    "list": b'[{"role": "king", "content": "x"}]',
    "version": b'{"format": "sioconv-conversation", "version": 99}',
    "parts": b'{"messages": [{"role": "user", "content": [1]}]}',
}


def test_other_files_are_refused(open_page: Opener, tmp_path: Path) -> None:
    page = open_page()
    message = {"id": "0" * 32, "parent": "0" * 32, "role": "user", "text": "x", "created": 1, "status": "whole"}
    circle = {"format": "sioconv-conversation", "version": 1, "title": "", "created": 1, "messages": [message]}
    circle |= {"chosen": {}, "model": "", "persona": None, "system": "", "sampling": {}, "base": None}
    for name, content in {**BAD_FILES, "circle": json.dumps(circle).encode()}.items():
        (tmp_path / name).write_bytes(content)
        page.locator("input[type=file]").set_input_files(tmp_path / name)
        expect(page.get_by_role("alert")).to_contain_text("このファイルは")
        page.get_by_role("alert").get_by_role("button", name="閉じる").click()
        expect(page.get_by_role("alert")).to_be_empty()


def test_models_that_come_late_take_no_other_trouble_back(open_page: Opener, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("not a conversation")
    held: list[Route] = []
    with browser.new_context(locale="ja-JP") as context:
        context.set_default_timeout(PATIENCE)
        context.route("**/v1/models", lambda route: held.append(route))
        page = open_page(context=context)
        page.locator("input[type=file]").set_input_files(tmp_path / "bad.json")
        expect(page.get_by_role("alert")).to_contain_text("このファイルは")
        held[0].continue_()
        expect(page.get_by_role("combobox", name="モデル")).not_to_have_value("")
        expect(page.get_by_role("alert")).to_contain_text("このファイルは")


def test_settings_go_into_the_request(open_page: Opener, stand_in: StandIn) -> None:
    page = open_page()
    page.get_by_role("combobox", name="モデル").select_option("other/模型")
    page.get_by_role("combobox", name="ペルソナ").select_option("海")
    button(page, "設定").click()
    page.get_by_label("システムプロンプト").fill("短く答える")
    page.get_by_label("温度").fill("0.5")
    page.get_by_label("シード").fill("7")
    page.keyboard.press("Escape")
    say(page, "月")
    sent = stand_in.last
    assert (sent["model"], sent["persona"], sent["temperature"], sent["seed"]) == ("other/模型", "海", 0.5, 7)
    assert sent["messages"][0] == {"role": "system", "content": "短く答える"}
    assert "top_p" not in sent
    assert sent["store"] is True
    button(page, "設定").click()
    page.get_by_label("会話の記憶").select_option("carried")
    page.keyboard.press("Escape")
    say(page, "日")
    assert (stand_in.last["state"], stand_in.last["store"]) == (STATE, False)
    assert "persona" not in stand_in.last
    assert [turn["content"] for turn in stand_in.last["messages"]] == ["日"]


def test_a_key_is_asked_for_and_forgotten_with_the_tab(open_page: Opener, stand_in: StandIn) -> None:
    stand_in.key = "sk-sioconv-x"
    page = open_page(locale="en-US")
    expect(page.get_by_role("alert")).to_contain_text("The server wants an API key")
    button(page, "Settings").click()
    field = page.get_by_label("API key", exact=False).first
    field.press_sequentially(stand_in.key)  # the field isn't left
    page.evaluate("new BroadcastChannel('sioconv').postMessage('x')")  # as another tab does that has saved something
    page.wait_for_timeout(500)
    expect(field).to_have_value(stand_in.key)
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_be_empty()
    say(page, "moon")
    expect(page.locator(".assistant .text")).to_have_text("1：moonですね。")
    assert page.evaluate("Object.values(localStorage).join()").find(stand_in.key) == -1
    again = open_page(context=page.context)
    expect(again.get_by_role("alert")).to_contain_text("The server wants an API key")


def test_a_refusal_is_told_and_the_message_can_be_answered_again(open_page: Opener, stand_in: StandIn) -> None:
    echo, stand_in.reply = stand_in.reply, lambda _: (429, {"Retry-After": "7"})
    page = open_page()
    say(page, "月")
    expect(page.get_by_role("alert")).to_contain_text("7 秒後")
    stand_in.reply = lambda _: (400, {})
    button(page, "返答させる").click()
    expect(page.get_by_role("alert")).to_contain_text("no <b>place</b>")
    stand_in.reply = echo
    button(page, "返答させる").click()
    expect(page.locator(".assistant .text")).to_have_text("1：月ですね。")
    expect(page.get_by_role("alert")).to_be_empty()


def test_several_conversations_are_kept_renamed_and_deleted(open_page: Opener) -> None:
    page = open_page()
    say(page, "月")
    button(page, "新しい会話").click()
    say(page, "日")
    entries = page.locator(".entry")
    expect(entries).to_have_text(["日", "月"])
    entries.nth(1).click()
    assert said(page) == ["月"]
    button(page, "名前の変更").click()
    page.get_by_role("dialog").get_by_role("textbox").fill("<b>夜空</b>")
    page.keyboard.press("Enter")
    expect(entries.first).to_have_text("<b>夜空</b>")
    button(page, "削除").click()
    page.get_by_role("dialog").get_by_role("button", name="取り消し").click()
    expect(entries).to_have_count(2)
    button(page, "削除").click()
    page.get_by_role("dialog").get_by_role("button", name="削除").click()
    expect(entries).to_have_text(["日"])
    page.reload()
    expect(entries).to_have_text(["日"])


def test_what_two_tabs_write_is_kept(open_page: Opener) -> None:
    page = open_page()
    say(page, "月")
    other = open_page(page.url, context=page.context)
    expect(other.locator(".assistant .text")).to_have_count(1)
    say(other, "日")
    expect(page.locator(".user .text")).to_have_text(["月", "日"])
    say(page, "星")
    expect(other.locator(".user .text")).to_have_text(["月", "日", "星"])


def test_enter_that_takes_a_conversion_sends_nothing(open_page: Opener, stand_in: StandIn) -> None:
    page = open_page()
    box = page.get_by_role("textbox", name="メッセージ")
    height = box.evaluate("e => e.offsetHeight")
    box.fill("つき")
    for how in ({"isComposing": True}, {"keyCode": 229}):
        box.dispatch_event("keydown", {"key": "Enter", "bubbles": True, "cancelable": True, **how})
    page.keyboard.press("Shift+Enter")
    expect(box).to_have_value("つき\n")
    assert stand_in.bodies == []
    assert box.evaluate("e => e.offsetHeight") > height
    page.keyboard.press("Enter")
    expect(page.locator(".assistant .text")).to_have_text("1：つきですね。")
    assert box.evaluate("e => e.offsetHeight") == height  # as large as what is written, not as what was


def test_a_phone_shows_everything_in_its_width(open_page: Opener, stand_in: StandIn) -> None:
    wide = "| a | b |\n|---|---|\n| " + "x" * 200 + " | y |\n\n```\n" + "z" * 300 + "\n```\n" + "w" * 200
    stand_in.reply = lambda _: [wide]
    page = open_page(viewport=PHONE, has_touch=True, is_mobile=True)
    box = page.get_by_role("textbox", name="メッセージ")
    box.fill("月" * 100)
    box.press("Enter")  # a new line, on a touch screen
    assert stand_in.bodies == []
    button(page, "送信").tap()
    expect(page.locator(".assistant table")).to_be_visible()
    expect(page.locator(".figures")).to_be_visible()
    overflow = "document.scrollingElement.scrollWidth - innerWidth"
    assert page.evaluate(overflow) <= 0
    assert page.locator(".messages").evaluate("e => e.scrollWidth - e.clientWidth") <= 0
    expect(page.get_by_role("navigation")).not_to_be_visible()
    page.get_by_role("button", name="会話の一覧").tap()
    expect(page.get_by_role("navigation").get_by_role("button", name="新しい会話")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("navigation")).not_to_be_visible()
    expect(page.get_by_role("button", name="会話の一覧")).to_be_focused()
    for name in ("記憶", "設定"):
        button(page, name).tap()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert page.get_by_role("dialog").evaluate("e => e.scrollWidth - e.clientWidth") <= 0
        page.keyboard.press("Escape")


def test_everything_is_reached_by_the_keyboard_alone(open_page: Opener) -> None:
    page = open_page(locale="en-US")
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    page.keyboard.type("moon")
    page.keyboard.press("Enter")
    expect(page.locator(".assistant .text")).to_have_text("1：moonですね。")
    expect(page.get_by_role("status").filter(has_text="1：moonですね。")).to_be_attached()
    reached = set()
    for _ in range(25):
        page.keyboard.press("Shift+Tab")
        reached.add(page.evaluate("(e => e.ariaLabel || e.innerText.trim())(document.activeElement)"))
    wanted = {"Regenerate", "Edit", "Copy", "Messages", "Model", "Persona", "Memory", "Settings", "New conversation"}
    assert wanted | {"moon", "Download", "Upload", "Rename", "Delete"} <= reached


@pytest.mark.parametrize(
    ("locale", "theme"),
    [
        ("ja-JP", "light"), ("en-US", "dark"),
        pytest.param("ja-JP", "dark", marks=pytest.mark.slow), pytest.param("en-US", "light", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_axe_finds_nothing(open_page: Opener, stand_in: StandIn, packages: Path, locale: str, theme: str) -> None:
    stand_in.reply = lambda _: ["# 見出し\n\n**太字** [link](https://example.com) `code`\n\n- a\n- b\n\n> quote\n\n"]
    page = open_page(locale=locale, color_scheme=theme)
    axe = (packages / "axe-core/axe.min.js").read_text("utf-8")
    assert page.evaluate("document.documentElement.lang") == locale[:2]
    check(page, axe)
    say(page, "月")
    button(page, {"ja": "再生成", "en": "Regenerate"}[locale[:2]]).click()
    expect(page.locator(".versions")).to_have_text("2/2")
    check(page, axe)
    for name in {"ja": ("記憶", "設定"), "en": ("Memory", "Settings")}[locale[:2]]:
        button(page, name).click()
        expect(page.get_by_role("dialog")).to_be_visible()
        check(page, axe)
        page.keyboard.press("Escape")
    stand_in.reply = lambda _: (400, {})
    say(page, "日")
    expect(page.get_by_role("alert")).to_contain_text("no <b>")
    button(page, {"ja": "編集", "en": "Edit"}[locale[:2]], 0).click()
    check(page, axe)
    page.set_viewport_size(PHONE)
    check(page, axe)
    page.get_by_role("button", name={"ja": "会話の一覧", "en": "Conversations"}[locale[:2]]).click()
    check(page, axe)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (theme == "light")


def check(page: Page, axe: str) -> None:
    # Past the page's policy, which lets nobody add a script.
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def test_the_language_and_the_colours_can_be_chosen(open_page: Opener) -> None:
    page = open_page(color_scheme="light")
    button(page, "設定").click()
    page.get_by_label("言語").select_option("en")
    page.get_by_label("Colours").select_option("dark")
    page.reload()
    expect(page.get_by_role("button", name="Settings")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 28)"


def test_the_memory_is_shown_layer_by_layer(open_page: Opener) -> None:
    page = open_page()
    say(page, "月")
    button(page, "記憶").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("tbody tr")).to_have_count(2)
    assert dialog.locator("tbody tr").nth(1).inner_text().split() == ["2", "1.0", "30", "∞"]
    expect(dialog).to_contain_text("3.1 kB")
    expect(dialog).to_contain_text("今までに 12 トークン")


@pytest.fixture(scope="module")
def packages() -> Path:
    """The page's npm packages, as its lock file names them."""
    if shutil.which("npm") is None:
        pytest.skip("no node here")
    installed = ROOT / "page/node_modules"
    lock = json.loads((ROOT / "page/package-lock.json").read_text("utf-8"))["packages"]
    marker = installed / ".package-lock.json"
    if marker.exists():
        found = json.loads(marker.read_text("utf-8"))["packages"]
        if all(found[name]["version"] == lock[name]["version"] for name in found):
            return installed
    pytest.skip("the page's packages aren't here: make page-packages")


def test_the_page_is_what_its_source_gives(packages: Path, tmp_path: Path) -> None:
    source = tmp_path / "page"
    shutil.copytree(ROOT / "page", source, ignore=shutil.ignore_patterns("node_modules"))
    (source / "node_modules").symlink_to(packages, target_is_directory=True)
    subprocess.run(["npm", "run", "--silent", "check"], cwd=source, check=True)
    subprocess.run(["node", "build.mjs", str(tmp_path / "built")], cwd=source, check=True)
    names = sorted(path.relative_to(SOURCE).as_posix() for folder in (BUILT, ALONE) for path in folder.iterdir())
    alone = [
        f"publish/page/built/{name}" for name in ("NOTICE", "index.html", "page.css", "page.js", "sw.js", "worker.js")
    ]
    assert names == [*alone, *(f"serve/page/{name}" for name in ("index.html", "page.css", "page.js"))]
    for name in names:
        same = (tmp_path / "built" / name).read_bytes() == (SOURCE / name).read_bytes()
        assert same, f"{name} isn't what page/ gives: make page"
