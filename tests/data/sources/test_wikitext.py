"""What a reader reads is kept, words stay apart, and no input takes more than its length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.sources.wikitext import plain_text

MARKS = [
    "{{", "}}", "{{{", "}}}", "[[", "]]", "[http://a ", "]", "|", "{|", "|}", "-{", "}-", "''", "'''", "=", "==", "\n",
    "<ref>", "</ref>", "<ref/>", "<sup>", "</sup>", "<table>", "</table>", "<!--", "-->", "<nowiki>", "</nowiki>",
    "<gallery>", "</gallery>", "<div>", "<rt>", "</rt>", "&lt;", "&#60;", "*", ";", ":", "lang", "File:", " ", "川",
    "\0",
]  # fmt: skip


def read(wikitext: str) -> str:
    return plain_text(wikitext, {"file", "ファイル"}, {"category", "カテゴリ"})[0]


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("a&lt;b かつ c&gt;d。&lt;em&gt;は強調。&amp;lt;", "a<b かつ c>d。<em>は強調。&lt;"),
        ("Paris<br />France <p>first</p><p>second</p>", "Paris\nFrance \nfirst\n\nsecond".replace(" \n", "\n")),
        ("<div>一</div><div>二</div><ul><li>三</li><li>四</li></ul>", "一\n\n二\n\n三\n\n四"),
        ("<td>一</td><td>二</td>", "一  二"),
        ("<nowiki>[[x]] ''y'' {{z}} &lt;</nowiki>、<nowiki/>w", "[[x]] ''y'' {{z}} <、w"),
        ("式<math>E = mc^2 < {x}</math>は", "式E = mc^2 < {x}は"),
        ("10<sup>6</sup> 10<sup>−3</sup> H<sub>2</sub>O 1<sup>st</sup>", "10⁶ 10⁻³ H₂O 1st"),
        ("<ruby>漢字<rp>(</rp><rt>かんじ</rt><rp>)</rp></ruby>", "漢字(かんじ)"),
        ("{{ruby|漢字|かんじ}}と{{読み仮名|神|かみ}}", "漢字(かんじ)と神(かみ)"),
        ("{{lang|en|sea}}、{{Lang-en|sea}}、{{仮リンク|川|en|River|label=大川}}", "sea、sea、大川"),
        ("{{Quotation|文=1|{{補助漢字フォント|﨑}}の文}}{{!}}{{convert|5|km}}", "﨑の文|5 km"),
        ("-{zh-hans:计算机;zh-hant:電腦}-と-{漢字}-", "计算机と漢字"),
        ("[[川|大きな[[川]]]]と[[山]]、[[:Category:海|海]]", "大きな川と山、海"),
        ("前[[ファイル:a.jpg|thumb|200px|alt=x|[[波]]の絵]]後[[カテゴリ:海]]", "前\n\n波の絵\n\n後"),
        ("<gallery>\nFile:a.jpg|[[一]]つ\nFile:b.jpg\n</gallery>", "一つ"),
        ("[http://a.b 見る]、[http://a.b]、http://a.b", "見る、、http://a.b"),
        (";用語:説明\n:次:\n# C#\n* a *", "用語:説明\n次:\nC#\na *"),
        ("== 深さ == <!-- x -->\n===浅さ===\nE =\n= x\n1 == 1 は", "深さ\n浅さ\nE =\n= x\n1 == 1 は"),
        ("<syntaxhighlight lang=c>\nif (a < b) {\n  c;\n}\n</syntaxhighlight>後", "if (a < b) {\n  c;\n}\n後"),
        ("'''海'''は''波''と''''岸''''、d'Arc", "海は波と'岸'、d'Arc"),
        ("<foo>は要素。__AVX__ __NOTOC__", "<foo>は要素。__AVX__"),
        ("{{{1|既定}}}と{{a b|{{{x}}}}}値", "既定と値"),
        # What is never closed is text, and takes nothing with it.
        ("川 {{ 山 | 谷", "川 {{ 山 | 谷"),
        ("川 [[ 山\n谷 ]] 海", "川 [[ 山\n谷 ]] 海"),
        ("川 <ref> 山 <!-- 谷", "川  山  谷"),
        ("[http://a 川\n山]", "[http://a 川\n山]"),
        ("川 <sup>2 {{仮リンク|山}}", "川 2 山"),
    ],
)
def test_what_a_reader_reads(wikitext: str, text: str) -> None:
    assert read(wikitext) == text


def test_what_is_left_out_is_counted() -> None:
    source = "海<ref>本</ref>{{R|x}}{{スタブ}}\n{|\n| [[一]] || {{二}}\n|}\n<table><tr><td>三</table><score>c</score>"
    text, left_out = plain_text(source, set(), set())
    assert text == "海"
    assert left_out == {"reference": 1, "template": 3, "table": 2, "score": 1}


@given(st.lists(st.sampled_from(MARKS), max_size=40).map("".join))
def test_any_marks_give_text(wikitext: str) -> None:
    text = read(wikitext)
    assert text == text.strip() and "\0" not in text


@given(st.text("abc 川。\n", max_size=60))
def test_text_without_marks_stays(text: str) -> None:
    assert read(text).replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_50000_times_is_read_in_one_pass(mark: str) -> None:
    """Where time grew with the square of the length, these took minutes."""
    assert "end" in read(mark * 50_000 + "\nend")
