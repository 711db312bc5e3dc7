"""sioconv.importing.whatsapp: exports of Android and iOS with the dates of many countries."""

import pytest

from sioconv.importing.items import CALLS, DELETED, MEDIA, STICKERS, SYSTEM

from .conftest import Import, left


def chat(*stamps: str) -> str:
    said = ["Taro: Hi\nsecond line", "Hana: Hello: you", "Taro: next day", "Hana: yes"]
    return "".join(f"{stamp}{text}\n" for stamp, text in zip(stamps, said, strict=True))


EXPECTED = [[("u", "Hi\nsecond line"), ("a", "Hello: you")], [("u", "next day"), ("a", "yes")]]


@pytest.mark.parametrize(
    "stamps",
    [
        ("2024/01/05 23:58 - ", "2024/01/06 0:01 - ", "2024/01/07 12:34 - ", "2024/01/07 12:35 - "),
        ("1/31/24, 11:58 PM - ", "2/1/24, 12:01 AM - ", "2/2/24, 1:00 PM - ", "2/2/24, 1:01 PM - "),
        ("31/01/2024, 23:58 - ", "01/02/2024, 00:01 - ", "02/02/2024, 13:00 - ", "02/02/2024, 13:01 - "),
        ("[31.01.24, 23:58:00] ", "[01.02.24, 00:01:02] ", "[02.02.24, 13:00:00] ", "[02.02.24, 13:01:00] "),
        ("[2024/01/05 23:58:00] ", "\u200e[2024/01/06 0:01:00] ", "[2024/01/07 午後1:00:00] ", "[2024/01/07 午後1:01:00] "),
        ("31/1/24, 11:58\u202fp.\u00a0m. - ", "1/2/24, 12:01\u202fa.\u00a0m. - ", "2/2/24, 1:00\u202fp.\u00a0m. - ",
         "2/2/24, 1:01\u202fp.\u00a0m. - "),
    ],
)  # fmt: skip
def test_dates_of_many_countries(imported: Import, stamps: tuple[str, ...]) -> None:
    rows, account = imported("WhatsApp Chat with Taro.txt", chat(*stamps), "Hana")
    assert rows == EXPECTED
    assert account.files[0].form == "WhatsApp"


def test_an_order_of_dates_that_nothing_tells_is_said_and_can_be_given(imported: Import) -> None:
    stamps = ("1/2/24, 23:58 - ", "1/2/24, 23:59 - ", "2/2/24, 1:00 - ", "2/2/24, 1:01 - ")
    rows, account = imported("a.txt", chat(*stamps), "Hana")
    assert len(rows) == 1
    assert "--dates decides" in account.files[0].notes[0]
    rows, account = imported("a.txt", chat(*stamps), "Hana", dates="month-first")
    assert rows == EXPECTED
    assert account.files[0].notes == []


def test_what_isnt_said_is_left_out_with_its_reason(imported: Import) -> None:
    start = "2024/01/05 12:00 - "
    lines = [
        "Messages and calls are end-to-end encrypted.", "Taro: <Media omitted>", "Taro: IMG-1.jpg (file attached)",
        "Taro: sticker omitted", "Taro: This message was deleted", "Missed voice call", "Taro: Hi", "Hana: Yes <This message was edited>",
        "Taro added Jiro",
    ]  # fmt: skip
    rows, account = imported("a.txt", "".join(f"{start}{line}\n" for line in lines), "Hana")
    assert rows == [[("u", "Hi"), ("a", "Yes")]]
    assert left(account) == {SYSTEM: 2, MEDIA: 2, STICKERS: 1, DELETED: 1, CALLS: 1}


def test_captions_of_pictures_are_kept(imported: Import) -> None:
    android = "2024/01/05 12:00 - Taro: IMG-1.jpg (ファイルが添付されました)\nきれい\n2024/01/05 12:01 - Hana: ほんと\n"
    rows, account = imported("a.txt", android, "Hana")
    assert rows == [[("u", "きれい"), ("a", "ほんと")]] and left(account) == {MEDIA: 1}
    ios = "\u200e[2024/01/05 12:00:00] Taro: きれい \u200e<添付ファイル: 1-PHOTO.jpg>\n[2024/01/05 12:01:00] Hana: ほんと \u200e<このメッセージは編集されました>\n"
    rows, account = imported("a.txt", ios, "Hana")
    assert rows == [[("u", "きれい"), ("a", "ほんと")]] and left(account) == {MEDIA: 1}


def test_what_the_app_says_in_any_language_isnt_speech(imported: Import) -> None:
    ios = "".join(
        f"\u200e[05.01.24, 12:00:00] {said}\n"
        for said in (
            "Gruppe: \u200eNachrichten sind sicher.", "\u200eTaro hat: etwas getan", "Taro: \u200eBild weggelassen",
            "Taro: \u200e<anexado: 1.jpg>", "Taro: Hi", "~\u202fHana: Ja",
        )
    )  # fmt: skip
    rows, account = imported("a.txt", ios, "Hana")
    assert rows == [[("u", "Hi"), ("a", "Ja")]]
    assert left(account) == {SYSTEM: 3, MEDIA: 1} and set(account.speakers) == {"Taro", "Hana"}
    android = "".join(
        f"05.01.24, 12:00 - {said}\n"
        for said in (
            'Taro changed the subject from "a: b" to "c: d"', "太郎さんがグループ名を「a: b」に変更しました", "Taro: <Média omis>",
            "Taro: <Multimedia omesso>", "Taro: Hi", "Hana: <3",
        )
    )  # fmt: skip
    rows, account = imported("a.txt", android, "Hana")
    assert rows == [[("u", "Hi"), ("a", "<3")]]
    assert left(account) == {SYSTEM: 2, MEDIA: 2} and set(account.speakers) == {"Taro", "Hana"}


def test_a_name_with_a_colon_is_one(imported: Import) -> None:
    lines = "".join(
        f"2024/01/05 12:0{n} - 仕事: 太郎: 質問{n}: ここ\n2024/01/05 12:0{n} - Hana: 答え{n}: ほら\n" for n in range(4)
    )
    rows, account = imported("a.txt", lines, "Hana")
    assert account.speakers == {"仕事: 太郎": 4, "Hana": 4}
    assert rows[0][0] == ("u", "質問0: ここ")
