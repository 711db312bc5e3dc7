"""Chats that DiscordChatExporter, Telegram and Slack have written as JSON, message by message.

Discord: one object with `messages`, each with `author`, `content`, `timestamp`. Telegram: one chat with `messages`, or
all with `chats.list`. Slack: a ZIP or folder with `users.json` and a folder for each channel, a file for each day.
"""

import html
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import ijson

from sioconv.data.documents import BadInput
from sioconv.importing.inputs import Archive, Input, damage_named
from sioconv.importing.items import (
    BOTS,
    CALLS,
    DELETED,
    EMPTY,
    FORWARDED,
    MEDIA,
    OTHERS,
    STICKERS,
    SYSTEM,
    Item,
    Items,
    Left,
    Message,
)  # fmt: skip
from sioconv.importing.times import seconds

ODD = "messages that aren't what the form says"
DISCORD_SAID = ("Default", "Reply", "ThreadStarterMessage", "ContextMenuCommand", "ChatInputCommand")
TELEGRAM_CHATS = ("messages.item", "chats.list.item.messages.item", "left_chats.list.item.messages.item")
SLACK_SAID = (None, "", "thread_broadcast", "me_message", "file_share")
SLACK_REFERENCE = re.compile(r"<([@#!]?)([^>|]*)(?:\|([^>]*))?>")


def kind_of_json(head: str) -> str | None:
    """`discord` or `telegram` for the beginning of such a file, else None."""
    start = head.lstrip("\ufeff \t\r\n")
    if not start.startswith("{"):
        return None
    if re.search(r'"guild"\s*:\s*\{', start) and '"channel"' in start:
        return "discord"
    if re.search(r'"(chats|personal_information)"\s*:\s*\{', start) or (
        '"messages"' in start
        and re.search(r'"from_id"|"type"\s*:\s*"(personal_chat|private_|public_|bot_chat|saved_)', start)
    ):
        return "telegram"
    return None


def read_discord(input: Input) -> Items:
    """The messages of an export by DiscordChatExporter."""
    for _, message in _objects(input, ("messages.item",)):
        yield _guarded(_discord, message)


def _discord(message: Mapping[str, Any]) -> Item:
    author, text = message["author"], message["content"]
    if message.get("type") == "Call":
        return Left(CALLS)
    if message.get("type", "Default") not in DISCORD_SAID:
        return Left(SYSTEM)
    if author.get("isBot"):
        return Left(BOTS)
    if not text.strip():
        if message.get("stickers"):
            return Left(STICKERS)
        if message.get("forwardedMessage"):
            return Left(FORWARDED)
        return Left(MEDIA if message.get("attachments") else OTHERS if message.get("embeds") else EMPTY)
    name = author.get("nickname") or author["name"]
    return Message(name, text, _iso(message.get("timestamp")), str(author["id"]), account=author["name"])


def read_telegram(input: Input) -> Items:
    """The messages of an export by Telegram, of one chat or of all."""
    for chat, message in _objects(input, TELEGRAM_CHATS):
        yield _guarded(_telegram, message, str(chat))


def _telegram(message: Mapping[str, Any], thread: str) -> Item:
    if message["type"] != "message":
        return Left(CALLS if "call" in str(message.get("action")) else SYSTEM)
    text = message.get("text", "")
    if isinstance(text, list):
        text = "".join(part if isinstance(part, str) else part["text"] for part in text)
    if "forwarded_from" in message:  # null where that account is deleted
        return Left(FORWARDED)
    if not text.strip():
        if message.get("media_type") == "sticker":
            return Left(STICKERS)
        return Left(MEDIA if {"photo", "file", "media_type"} & message.keys() else OTHERS)
    person = str(message.get("from_id") or "")
    name = message.get("from") or (f"Deleted Account {person}" if person else "Deleted Account")
    return Message(name, text, _iso(message.get("date")), person, thread)


def is_slack(names: list[str]) -> bool:
    """Whether an archive's members are those of Slack."""
    return any(name.rpartition("/")[2] == "users.json" for name in names) and any(
        re.search(r"/\d{4}-\d{2}-\d{2}\.json$", name) for name in names
    )


def read_slack(archive: Archive) -> Items:
    """The messages of an export by Slack, channel by channel and day by day, a day's threads behind its channel."""
    names, people = archive.names, dict[str, str]()
    for name in names:
        if name.rpartition("/")[2] == "users.json":
            for _, user in _objects(archive.member(name), ("item",)):
                profile = user.get("profile") or {}
                shown = profile.get("display_name") or profile.get("real_name") or user.get("real_name")
                people[str(user.get("id"))] = str(shown or user.get("name") or user.get("id"))
    for name in names:
        if re.search(r"/\d{4}-\d{2}-\d{2}\.json$", name):
            channel = name.rpartition("/")[0]
            items = [_guarded(_slack, each, channel, people) for _, each in _objects(archive.member(name), ("item",))]
            yield from (each for each in items if not isinstance(each, Message) or each.thread == channel)
            threads = [each for each in items if isinstance(each, Message) and each.thread != channel]
            yield from sorted(threads, key=lambda each: (each.thread, each.time))


def _slack(message: Mapping[str, Any], channel: str, people: Mapping[str, str]) -> Item:
    kind = message.get("subtype")
    if message.get("bot_id") or kind == "bot_message" or message.get("user") == "USLACKBOT":
        return Left(BOTS)
    if kind not in SLACK_SAID:
        return Left({"tombstone": DELETED, "huddle_thread": CALLS}.get(str(kind), SYSTEM))
    user = str(message["user"])
    profile = message.get("user_profile") or {}
    name = people.get(user) or profile.get("display_name") or profile.get("real_name") or user

    def written(found: re.Match[str]) -> str:
        sign, what, label = found.groups()
        if sign == "@":
            return "@" + people.get(what, label or what)
        return {"#": "#", "!": "@", "": ""}[sign] + (label or what)

    text = html.unescape(SLACK_REFERENCE.sub(written, message["text"]))
    if not text.strip():
        return Left(MEDIA if message.get("files") else EMPTY)
    root = message.get("thread_ts")
    thread = channel if root is None else f"{channel}/{root}"
    return Message(name, text, float(message["ts"]), user, thread)


def _guarded(read: Any, message: Any, *more: Any) -> Item:
    """What a reader makes of a message; one that lacks what the form says is left out."""
    try:
        item: Item = read(message, *more)
        if isinstance(item, Message) and not all(isinstance(part, str) for part in (item.speaker, item.text)):
            return Left(ODD)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return Left(ODD)
    return item


def _objects(input: Input, prefixes: tuple[str, ...]) -> Iterator[tuple[int, Any]]:
    """The values at any of the places, one at a time, each with how many arrays that hold them have begun.

    Raises BadInput where the file isn't JSON or breaks off.
    """
    arrays = tuple(prefix.removesuffix(".item") for prefix in prefixes)
    number, builder, inside = 0, None, ""
    with damage_named(input), input.open() as stream:
        try:
            for prefix, event, value in ijson.parse(stream, use_float=True):
                if event == "start_array" and prefix in arrays and builder is None:
                    number += 1
                if builder is None and prefix in prefixes:
                    builder, inside = ijson.ObjectBuilder(), prefix
                if builder is not None:
                    builder.event(event, value)
                    if prefix == inside and event not in ("start_map", "start_array", "map_key"):
                        yield number, builder.value
                        builder = None
        except (ijson.JSONError, ValueError, RecursionError) as error:
            problem = " ".join(str(error).split())
            raise BadInput("broken json file", input.name, problem, "export it again") from error


def _iso(text: Any) -> float | None:
    return seconds(datetime.fromisoformat(text)) if isinstance(text, str) else None
