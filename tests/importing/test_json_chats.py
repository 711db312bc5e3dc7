"""sioconv.importing.json_chats: exports of DiscordChatExporter, Telegram and Slack."""

import io
import json
import zipfile
from typing import Any

import pytest

from sioconv.errors import UserError
from sioconv.importing.items import BOTS, CALLS, FORWARDED, MEDIA, STICKERS, SYSTEM

from .conftest import Import, left


def discord(*messages: dict[str, Any]) -> str:
    return json.dumps({"guild": {"id": "1", "name": "G"}, "channel": {"id": "2"}, "messages": list(messages)})


def said(name: str, text: str, minute: int = 0, **more: Any) -> dict[str, Any]:
    author = {"id": f"id-{name}", "name": name.lower(), "nickname": name, "isBot": False, **more.pop("author", {})}
    stamp = f"2024-01-01T10:{minute:02}:00.5+09:00"
    return {"id": "9", "type": "Default", "timestamp": stamp, "content": text, "author": author, **more}


@pytest.mark.parametrize("me", ["Hana", "hana", "id-Hana"])
def test_discord_knows_a_person_by_nickname_name_and_id(imported: Import, me: str) -> None:
    messages = [
        said("Taro", "やあ"), said("Taro", "", attachments=[{}]), said("Taro", "", stickers=[{}]),
        said("Bot", "beep", author={"isBot": True}), said("Taro", "started a call", type="Call"),
        said("Taro", "pinned", type="ChannelPinnedMessage"), said("Hana", "なに", 1, type="Reply"),
    ]  # fmt: skip
    rows, account = imported("a.json", discord(*messages), me)
    assert rows == [[("u", "やあ"), ("a", "なに")]]
    assert left(account) == {MEDIA: 1, STICKERS: 1, BOTS: 1, CALLS: 1, SYSTEM: 1}
    assert account.files[0].form == "Discord"


def test_two_persons_with_one_name_are_told_apart_by_their_ids(imported: Import) -> None:
    messages = [
        said("Taro", "やあ"),
        said("Hana", "一"),
        said("Taro", "え"),
        said("Hana", "二", author={"id": "other"}),
    ]
    with pytest.raises(UserError, match=r"2 people are called 'Hana': their ids are id-Hana, other: give --me an id"):
        imported("a.json", discord(*messages), "Hana")
    rows, _ = imported("a.json", discord(*messages), "other")
    assert rows == [[("u", "やあ\n一\nえ"), ("a", "二")]]


def telegram(name: str, text: Any, **more: Any) -> dict[str, Any]:
    base = {"id": 1, "type": "message", "date": "2024-01-01T10:00:00", "from": name, "from_id": f"user{name}"}
    return {**base, "text": text, **more}


def test_telegram_of_one_chat(imported: Import) -> None:
    link = ["見て ", {"type": "link", "text": "https://example.com"}]
    messages = [
        telegram("Taro", link), telegram("Taro", "", media_type="sticker"), telegram("Taro", "", photo="x.jpg"),
        telegram("Hana", "他人の言葉", forwarded_from="Jiro"), telegram("Taro", "", type="service", action="phone_call"),
        telegram("Hana", "見た"),
    ]  # fmt: skip
    chat = {"name": "Taro", "type": "personal_chat", "id": 1, "messages": messages}
    rows, account = imported("result.json", json.dumps(chat, indent=1), "Hana")
    assert rows == [[("u", "見て https://example.com"), ("a", "見た")]]
    assert left(account) == {STICKERS: 1, MEDIA: 1, FORWARDED: 1, CALLS: 1}


def test_telegram_of_all_chats_keeps_them_apart(imported: Import) -> None:
    chats = [{"type": "personal_chat", "messages": [telegram("Taro", "一"), telegram("Hana", "二")]}] * 2
    whole = {"personal_information": {}, "chats": {"about": "", "list": chats}}
    rows, _ = imported("result.json", json.dumps(whole), "Hana")
    assert rows == [[("u", "一"), ("a", "二")]] * 2


def test_slack_puts_threads_behind_the_days_channel(imported: Import) -> None:
    users = [
        {"id": "U1", "name": "t", "profile": {"display_name": "太郎"}},
        {"id": "U2", "profile": {"real_name": "花子"}},
    ]
    day = [
        {"type": "message", "user": "U1", "text": "お昼 &amp; <@U2> <https://example.com|ここ>", "ts": "1704070000.1"},
        {"type": "message", "user": "U1", "text": "別件", "ts": "1704070001.1", "thread_ts": "1704070001.1"},
        {"type": "message", "user": "U2", "text": "行く", "ts": "1704070002.1"},
        {"type": "message", "user": "U2", "text": "了解", "ts": "1704070003.1", "thread_ts": "1704070001.1"},
        {"type": "message", "subtype": "channel_join", "user": "U1", "text": "joined", "ts": "1704070004.1"},
        {"type": "message", "bot_id": "B", "text": "beep", "ts": "1704070005.1"},
    ]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("users.json", json.dumps(users))
        archive.writestr("channels.json", "[]")
        archive.writestr("general/2024-01-01.json", json.dumps(day))
    rows, account = imported("slack.zip", data.getvalue(), "花子")
    assert rows == [[("u", "お昼 & @花子 ここ"), ("a", "行く")], [("u", "別件"), ("a", "了解")]]
    assert left(account) == {SYSTEM: 1, BOTS: 1}


def test_json_that_breaks_off_is_an_error_of_one_line(imported: Import) -> None:
    with pytest.raises(UserError, match=r"broken json file: .*a\.json: .*export it again"):
        imported("a.json", discord(said("Taro", "やあ"), said("Hana", "なに"))[:-5], "Hana")
    with pytest.raises(UserError, match="unknown form"):
        imported("a.json", '{"a": 1}', "Hana")


def test_telegrams_forwards_of_deleted_accounts_and_chats_that_were_left(imported: Import) -> None:
    gone = telegram("Taro", "一", **{"from": None, "from_id": "user7"})
    messages = [gone, telegram("Hana", "他人の言葉", forwarded_from=None), telegram("Hana", "二")]
    chat = {"type": "private_group", "messages": messages}
    whole = {"personal_information": {}, "chats": {"list": [chat]}, "left_chats": {"list": [chat]}}
    rows, account = imported("result.json", json.dumps(whole), "Hana")
    assert rows == [[("u", "一"), ("a", "二")]] * 2
    assert left(account) == {FORWARDED: 2}
    assert account.speakers == {"Hana": 2, "Deleted Account user7": 2}


def test_threads_that_come_in_turns_are_conversations_of_their_own(imported: Import) -> None:
    table = "conversation,speaker,text\nA,Taro,一\nB,Jiro,1\nA,Hana,二\nB,Hana,2\nA,Taro,三\nA,Hana,四\n"
    rows, account = imported("a.csv", table, "Hana")
    assert rows == [[("u", "1"), ("a", "2")], [("u", "一"), ("a", "二"), ("u", "三"), ("a", "四")]]
    assert left(account) == {}


def test_more_threads_than_are_held_end_the_oldest(imported: Import) -> None:
    rows = "".join(f"{n},Taro,q{n}\n{n},Hana,a{n}\n" for n in range(600))
    assert len(imported("a.csv", "conversation,speaker,text\n" + rows, "Hana")[0]) == 600
