"""sioconv.importing.line: LINE's exports from Android, iOS and the PC, in Japanese and English."""

import pytest

from sioconv.errors import UserError
from sioconv.importing.items import CALLS, DELETED, MEDIA, OTHERS, STICKERS, SYSTEM

from .conftest import Import, left

ANDROID = """\
[LINE] 太郎とのトーク履歴
保存日時：2024/01/05 12:34

2024/01/01(月)
10:00\t太郎\tあけましておめでとう
10:01\t花子\t"ことしも
""よろしく""ね"
10:05\t太郎\t[スタンプ]
10:06\t\t太郎がメッセージの送信を取り消しました
10:07\t太郎\t[写真]
10:07\t太郎\t☎ 通話時間 0:12
10:07\t太郎\t[アルバム] 旅行
10:07\t\t太郎が花子を招待しました
10:08\t花子\tまたね

2024/01/02(火)
10:00\t太郎\t"一行だけ"
10:01\t花子\tうん
"""
FIRST = [("u", "あけましておめでとう"), ("a", 'ことしも\n"よろしく"ね\nまたね')]
SECOND = [("u", '"一行だけ"'), ("a", "うん")]


def test_the_form_of_android(imported: Import) -> None:
    rows, account = imported("[LINE] 太郎.txt", ANDROID, "花子")
    assert rows == [FIRST, SECOND]
    assert left(account) == {STICKERS: 1, DELETED: 1, MEDIA: 1, CALLS: 1, OTHERS: 1, SYSTEM: 1}
    assert account.left_out[STICKERS].examples[0][0].endswith("太郎.txt:8")
    assert account.speakers == {"太郎": 2, "花子": 3}
    assert account.files[0].form == "LINE"


@pytest.mark.parametrize("encoding", ["cp932", "utf-16", "utf-8-sig", "euc_jp"])
def test_another_encoding_gives_the_same(imported: Import, encoding: str) -> None:
    text = ANDROID.replace("☎", "☎" if encoding.startswith("utf") else "[ファイル]")
    rows, _ = imported("a.txt", text.replace("\n", "\r\n").encode(encoding), "花子")
    assert rows == [FIRST, SECOND]


def test_the_form_of_ios_with_halves_of_the_day(imported: Import) -> None:
    text = (
        "[LINE] 太郎とのトーク\n保存日時：2024/01/05 12:34\n\n2024/01/01(月)\n午後11:59\t太郎\tねえ\n\n2024/01/02(火)\n"
    )
    rows, _ = imported("a.txt", text + "午前0:01\t花子\tなに\n午前9:00\t太郎\t朝\n午前9:01\t花子\tおはよ\n", "花子")
    assert rows == [[("u", "ねえ"), ("a", "なに")], [("u", "朝"), ("a", "おはよ")]]


def test_the_english_form_with_the_month_first(imported: Import) -> None:
    text = "[LINE] Chat history with Taro\nSaved on: 1/5/2024, 12:34 PM\n\nMon, 1/1/2024\n11:59 PM\tTaro\tHi\n\n"
    text += "Tue, 1/2/2024\n12:01 AM\tHana\tHello\n12:02 AM\tTaro\t[Sticker]\n12:03 AM\t\tTaro unsent a message.\n"
    rows, account = imported("a.txt", text, "Hana")
    assert rows == [[("u", "Hi"), ("a", "Hello")]]
    assert left(account) == {STICKERS: 1, DELETED: 1}


def test_the_form_of_the_pc_finds_names_with_spaces(imported: Import) -> None:
    text = "[LINE] 山田 太郎とのトーク履歴\n保存日時 : 2024.01.05 12:34\n\n2024.01.01 月曜日\n"
    text += "10:00 山田 太郎 あけまして おめでとう\n10:01 花子 ことしも\nよろしく\n10:02 山田 太郎 スタンプ\n"
    text += "10:03 山田 太郎がメッセージの送信を取り消しました\n10:04 山田 太郎 画像\n10:05 花子 じゃあね\n"
    rows, account = imported("a.txt", text, "花子")
    assert rows == [[("u", "あけまして おめでとう"), ("a", "ことしも\nよろしく\nじゃあね")]]
    assert set(account.speakers) == {"山田 太郎", "花子"}
    assert left(account) == {STICKERS: 1, DELETED: 1, MEDIA: 1}


def test_a_name_with_a_space_that_no_header_says_is_told_by_its_messages(imported: Import) -> None:
    lines = "".join(f"10:{n:02} Taro Yamada {word} you\n10:{n:02} Hana yes {n}\n" for n, word in enumerate("abcd"))
    _, account = imported("a.txt", "2024.01.01 月曜日\n" + lines, "Hana")
    assert set(account.speakers) == {"Taro Yamada", "Hana"}


def test_times_and_dates_inside_a_message_are_its_text(imported: Import) -> None:
    text = ANDROID.replace("ことしも", "10:00 駅\n2024/01/03\n12:00集合")
    rows, _ = imported("a.txt", text, "花子")
    assert rows[0][1][1].startswith("10:00 駅\n2024/01/03\n12:00集合\n")


def test_days_inside_a_message_are_its_text(imported: Import) -> None:
    days = "候補は\n\n2024/01/06(土)\n2024/01/07(日)\nどう？"
    phone = f'[LINE] 太郎とのトーク\n\n2024/01/01(月)\n10:00\t太郎\t"{days}"\n10:01\t花子\t日曜\n\n2024/01/02(火)\n10:00\t太郎\t朝\n10:01\t花子\tはい\n'
    expected = [[("u", days), ("a", "日曜")], [("u", "朝"), ("a", "はい")]]
    assert imported("a.txt", phone, "花子")[0] == expected
    days = days.replace("/", ".").replace("(土)", " 土曜日").replace("(日)", " 日曜日")
    pc = f"[LINE] 太郎とのトーク\n\n2024.01.01 月曜日\n10:00 太郎 {days}\n10:01 花子 日曜\n2024.01.02 火曜日\n10:00 太郎 朝\n10:01 花子 はい\n"
    assert imported("a.txt", pc, "花子")[0] == [[("u", days), ("a", "日曜")], expected[1]]


def test_a_tab_or_an_earlier_time_in_a_text_of_the_pc_changes_nothing(imported: Import) -> None:
    said = "".join(f"12:0{n} 太郎 質問{n}です ね\n12:0{n} 花子 答え{n}\n" for n in range(5))
    plan = "2024.01.01 月曜日\n" + said + "12:10 太郎 予定は\n09:00 駅 集合\n10:00\t山\n12:11 花子 わかった\n"
    rows, account = imported("a.txt", plan, "花子")
    assert rows[0][-2:] == [("u", "予定は\n09:00 駅 集合\n10:00\t山"), ("a", "わかった")]
    assert set(account.speakers) == {"太郎", "花子"}


def test_two_people_whose_names_begin_alike_are_two_on_the_pc(imported: Import) -> None:
    lines = "".join(f"10:{n:02} 山田 {('太郎', '花子')[n % 2]} {'あいうえおか'[n]}です ね\n" for n in range(6))
    late = "".join(f"11:{n // 60:02} 鈴木 {n} うん\n" for n in range(6000))  # names are told by the whole file
    late += "".join(f"12:{n:02} 佐藤 次郎 {'あいうえ'[n]} です\n" for n in range(4))
    _, account = imported("a.txt", "2024.01.01 月曜日\n" + late + lines, "山田 花子")
    assert {"山田 太郎", "山田 花子", "佐藤 次郎", "鈴木"} == set(account.speakers)


def test_what_is_said_of_groups_on_the_pc_is_no_news(imported: Import) -> None:
    text = "2024.01.01 月曜日\n10:00 太郎 ねえ\n10:01 花子 妹がグループに参加しました\n10:02 太郎が次郎を招待しました\n"
    text += "10:03 太郎 日程が土曜に変更しました\n10:04 花子 了解\n10:05 花子がメッセージの送信を取り消しました\n"
    rows, account = imported("a.txt", text, "花子")
    assert rows == [
        [("u", "ねえ"), ("a", "妹がグループに参加しました"), ("u", "日程が土曜に変更しました"), ("a", "了解")]
    ]
    assert left(account) == {SYSTEM: 1, DELETED: 1}


def test_half_of_a_name_on_the_pc_is_nobody(imported: Import) -> None:
    said = "".join(f"10:{n:02} 山田 太郎 質問{n}\n10:{n:02} 花子 答え{n}\n" for n in range(30))
    with pytest.raises(UserError, match=r"nobody is called '山田'.*did you mean '山田 太郎'\?"):
        imported("a.txt", "2024.01.01 月曜日\n" + said, "山田")


@pytest.mark.parametrize(
    "day", ["2024/01/01（週一）", "2024.01.01 星期一", "2024년 1월 1일 월요일", "Mon, 01/01/2024", "2024/1/1(月)"]
)
def test_days_in_other_languages(imported: Import, day: str) -> None:
    rows, _ = imported("a.txt", f"[LINE] chat\n\n{day}\n下午01:00\t太郎\tねえ\n下午01:01\t花子\tなに\n", "花子")
    assert rows == [[("u", "ねえ"), ("a", "なに")]]
