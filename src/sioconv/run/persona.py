"""A persona from a few lines: conversations about itself, in the words in which it is described."""

import json
import re
from pathlib import Path
from typing import Any

from sioconv.errors import UserError

LONGEST = 20_000  # characters: a few lines, not a book
ABOUT = (
    "あなたはどんな人？", "自己紹介して", "どんな人なの？", "あなたのことを教えて", "自分について話して",
    "Tell me about yourself", "What are you like?",
)  # fmt: skip
ABOUT_KEY = ("{key}は？", "{key}を教えて", "{key}は何？")
KEY = re.compile(r"^(?P<key>[^:：]{1,20})\s*[:：]\s*(?P<value>\S.*)$")


def persona_rows(text: str) -> list[dict[str, Any]]:
    """Conversations in which the persona says what its description says, word for word.

    A line `key: value`, such as `食べ物: 鯖じゃ`, answers questions after the key; a key that ends in a question mark
    is asked as it stands. The other lines, all together or one alone, answer questions after the persona. Write them
    as it would say them itself.

    Raises UserError where nothing is described, or too much.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise UserError("--persona: nothing is described: write a line or more, as the persona would say it")
    if len(text) > LONGEST:
        raise UserError(f"--persona: {len(text):,} characters: give a few lines, and a long text as a FILE to learn")
    rows, said = list[dict[str, Any]](), list[str]()
    for line in lines:
        if found := KEY.match(line):
            key, value = found["key"].strip(), found["value"]
            questions = [key] if key.endswith(("?", "？")) else [form.format(key=key) for form in ABOUT_KEY]
            rows += [_row(question, value) for question in questions]
        else:
            said.append(line)
    if said:
        answers = ["\n".join(said), *said] if len(said) > 1 else said
        rows += [_row(question, answers[number % len(answers)]) for number, question in enumerate(ABOUT)]
    return rows


def read_persona(given: str) -> list[dict[str, Any]]:
    """The rows of a description, or of the file that holds it. Raises UserError as `persona_rows` does."""
    try:
        is_file = "\n" not in given and Path(given).is_file()
    except (OSError, ValueError):  # too long for a name
        is_file = False
    if not is_file:
        return persona_rows(given)
    try:
        return persona_rows(Path(given).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--persona: can't read {given}: {error}: save it as UTF-8") from error


def as_lines(rows: list[dict[str, Any]]) -> str:
    """The rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
