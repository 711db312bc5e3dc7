"""sioconv.importing: books and pages: Aozora Bunko, EPUB, PDF, Markdown, HTML, plain text."""

import io
import zipfile

import pytest

from sioconv.errors import UserError
from sioconv.importing.books.aozora import plain_text
from sioconv.importing.books.pdf import EMPTY_PAGES, joined

from .conftest import Import, left

AOZORA = """\
海辺《うみべ》の話
山川太郎

-------------------------------------------------------
【テキスト中に現れる記号について】

《》：ルビ
-------------------------------------------------------

［＃７字下げ］一［＃「一」は中見出し］

　海辺《うみべ》の｜小さな家《いえ》に、※［＃「てへん＋劣」、第3水準1-84-77］るひとが／＼いた。
［＃挿絵（fig1.png、横10×縦10）入る］
　おしまい※［＃「何か」、9-1］。


底本：「作品集」書房
"""
BODY = "一\n\n　海辺の小さな家に、挘るひとが〱いた。\n\n　おしまい〓。"


@pytest.mark.parametrize("encoding", ["cp932", "utf-8"])
def test_aozora_loses_its_signs_head_and_foot(imported: Import, encoding: str) -> None:
    rows, account = imported("a.txt", AOZORA.replace("\n", "\r\n").encode(encoding))
    assert rows == [BODY]
    assert account.preview[0]["title"] == "海辺の話" and account.preview[0]["author"] == "山川太郎"
    assert left(account) == {"pictures": 1, "characters that no code names, now 〓": 1}


def test_aozora_in_its_zip_with_pictures(imported: Import) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("umibe.txt", AOZORA.encode("cp932"))
        archive.writestr("fig1.png", b"\x89PNG")
    rows, account = imported("1_ruby_2.zip", data.getvalue())
    assert rows == [BODY]
    assert left(account)["members that are no text"] == 1


def test_ruby_is_kept_where_it_is_asked_for() -> None:
    assert plain_text("海辺《うみべ》の｜小さな家《いえ》", "keep") == ("海辺(うみべ)の小さな家(いえ)", 0)
    assert plain_text("ＡＢ《エービー》と《注》", "drop") == ("ＡＢと", 0)


def epub(*pages: str, **more: str) -> bytes:
    data = io.BytesIO()
    container = '<container xmlns="c"><rootfiles><rootfile full-path="O/book.opf"/></rootfiles></container>'
    items = "".join(
        f'<item id="p{n}" href="p%20{n}.xhtml" media-type="application/xhtml+xml"/>' for n in range(len(pages))
    )
    order = "".join(f'<itemref idref="p{n}"/>' for n in reversed(range(len(pages))))
    meta = '<metadata xmlns:d="d"><d:title>題</d:title><d:creator>著者</d:creator></metadata>'
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("META-INF/container.xml", container)
        package = f'<package xmlns="o">{meta}<manifest>{items}</manifest><spine>{order}</spine></package>'
        archive.writestr("O/book.opf", more.get("package", package))
        for n, page in enumerate(pages):
            archive.writestr(f"O/p {n}.xhtml", page)
        if "encryption" in more:
            archive.writestr("META-INF/encryption.xml", more["encryption"])
    return data.getvalue()


SCRIPTED = "<html><head><title>t</title><script>a()</script></head><body><p>二 &amp; 三</p><script>evil()</script><img/></body></html>"
RUBY = "<html><body><p><ruby>海<rp>(</rp><rt>うみ</rt><rp>)</rp></ruby>へ</p><p>行く</p></body></html>"


def test_epub_is_read_in_its_order_without_scripts(imported: Import) -> None:
    rows, account = imported("a.epub", epub(SCRIPTED, RUBY))
    assert rows == ["海へ\n行く\n\n二 & 三"]
    assert left(account) == {"pictures": 1, "scripts": 2}
    assert account.preview[0]["title"] == "題"
    rows, _ = imported("a.epub", epub(RUBY), ruby="keep")
    assert rows == ["海(うみ)へ\n行く"]


def test_an_epub_that_cant_be_read_says_why(imported: Import) -> None:
    locked = '<e xmlns="x"><CipherReference URI="O/p%200.xhtml"/></e>'
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]><package>&a;</package>'
    cases = [
        (epub("<html><body><img/></body></html>"), "no text"), (epub(RUBY, encryption=locked), "encrypted.*DRM"),
        (epub(RUBY, package=bomb), "declares entities"), (b"PK\x03\x04rest", "can't read"), (b"text", "can't read"),
    ]  # fmt: skip
    for content, problem in cases:
        with pytest.raises(UserError, match=problem):
            imported("a.epub", content)


def pdf(*texts: str) -> bytes:
    """A document with a page for each text; an empty one has only a picture's place."""
    pages, objects = [], list[bytes]()
    for text in texts:
        lines = "".join(f"({line}) Tj 0 -14 Td " for line in text.split("\n") if line)
        stream = f"BT /F1 12 Tf 50 700 Td {lines}ET".encode()
        pages.append(len(objects) + 4)
        objects.append(
            b"<</Type/Page/Parent 2 0 R/Resources<</Font<</F1 3 0 R>>>>/Contents %d 0 R>>" % (len(objects) + 5)
        )
        objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream))
    kids = " ".join(f"{number} 0 R" for number in pages).encode()
    first = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%s]/Count %d/MediaBox[0 0 600 800]>>" % (kids, len(pages)),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body, places = b"%PDF-1.4\n", list[int]()
    for number, each in enumerate([*first, *objects], start=1):
        places.append(len(body))
        body += b"%d 0 obj%s\nendobj\n" % (number, each)
    table = b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1) + b"".join(
        b"%010d 00000 n \n" % at for at in places
    )
    return body + table + b"trailer<</Root 1 0 R/Size %d>>\nstartxref\n%d\n%%%%EOF" % (len(places) + 1, len(body))


def test_pdf_gives_its_text_and_counts_pages_of_pictures(imported: Import) -> None:
    rows, account = imported("a.pdf", pdf("The river runs to the\nsea and comes back.\nEnd.", ""))
    assert rows == ["The river runs to the sea and comes back.\nEnd."]
    assert left(account) == {EMPTY_PAGES: 1}


def test_a_pdf_of_pictures_only_or_damaged_is_refused(imported: Import) -> None:
    with pytest.raises(UserError, match=r"its 2 pages are pictures.*OCR"):
        imported("a.pdf", pdf("", ""))
    with pytest.raises(UserError, match="can't read"):
        imported("a.pdf", b"%PDF-1.4 nothing")


def test_lines_of_a_page_are_joined_to_paragraphs() -> None:
    page = "吾輩は猫である。名前は\nまだ無い。どこで生れた\nか。\n短い行\n次の段落である。"
    assert joined(page) == "吾輩は猫である。名前はまだ無い。どこで生れたか。\n短い行\n次の段落である。"
    assert joined("a long hyphen-\nated word here") == "a long hyphenated word here"


def test_markdown_becomes_what_its_reader_sees(imported: Import) -> None:
    text = "---\ntitle: x\n---\n# 見出し\n\n**強い**[文](http://x)と![絵](a.png)。\n\n- 一\n- 二\n\n```py\na = 1\n```\n<script>x()</script>\n"
    rows, account = imported("a.md", text)
    assert rows == ["見出し\n\n強い文と。\n\n一\n二\na = 1"]
    assert left(account) == {"pictures": 1}


def test_html_and_plain_text(imported: Import) -> None:
    rows, _ = imported("a.html", SCRIPTED)
    assert rows == ["二 & 三"]
    rows, account = imported("a.txt", "川は海へ。\r\n山へ。".encode("euc_jp"))
    assert rows == ["川は海へ。\n山へ。"]
    assert account.files[0].encoding == "EUC-JP"


def test_a_bomb_and_paths_out_of_an_archive_are_refused_or_left_out(imported: Import) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.txt", b"a" * (20 << 20))
    with pytest.raises(UserError, match="a ZIP bomb"):
        imported("a.zip", data.getvalue())
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in ("../../evil.txt", "/etc/evil.txt", "C:\\evil.txt", "good.txt", "inner.zip", ".hidden.txt"):
            archive.writestr(name, "川は海へ。")
    rows, account = imported("a.zip", data.getvalue())
    assert rows == ["川は海へ。"]
    assert left(account) == {"members whose path leads out of the archive": 3, "archives inside archives": 1}


def zipped(members: dict[str, bytes | str], compression: int = zipfile.ZIP_STORED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


def test_many_members_that_are_a_bomb_together_are_refused(imported: Import) -> None:
    members: dict[str, bytes | str] = {f"{n}.txt": b"a" * (2 << 20) for n in range(12)}
    with pytest.raises(UserError, match="a ZIP bomb"):
        imported("a.zip", zipped(members, zipfile.ZIP_DEFLATED))


def test_a_size_that_lies_is_an_error_and_reads_no_more_than_it_says(imported: Import) -> None:
    data = zipped({"a.txt": "川は海へ。" * 200_000}, zipfile.ZIP_DEFLATED)
    size = (len("川は海へ。".encode()) * 200_000).to_bytes(4, "little")
    assert data.count(size) == 2
    with pytest.raises(UserError, match=r"can't read|no text|broken text"):
        imported("a.zip", data.replace(size, (1000).to_bytes(4, "little")))


def test_files_beside_a_chat_in_an_archive_were_sent_in_it(imported: Import) -> None:
    chat = "".join(f"2024/01/05 12:0{n} - {('Taro', 'Hana')[n % 2]}: {n}\n" for n in range(4))
    members = {
        "_chat.txt": chat,
        "plan.html": "<p>x</p>",
        "list.csv": "x,y\n1,2\n",
        "a.pdf": "%PDF-",
        "1.jpg": "x",
        "e.txt": "",
    }
    rows, account = imported("WhatsApp.zip", zipped(dict(members)), "Hana")
    assert rows == [[("u", "0"), ("a", "1"), ("u", "2"), ("a", "3")]]
    assert left(account) == {"files beside a chat, such as those sent in it": 4, "members that are no text": 1}


def test_a_name_for_documents_has_no_effect_and_says_so(imported: Import) -> None:
    _, account = imported("a.txt", "川は海へ。", "花子")
    assert account.notes == ["no chat is found in the files: they are documents, and --me has no effect"]


def test_accents_of_aozora_are_letters() -> None:
    text = "〔Cafe'〕で〔fu:r Elise〕、〔fe^te, ga&rd, c,a〕、〔Stra s&e oe&uvre〕、〔note: a, b〕と〔注〕"
    assert plain_text(text)[0] == "Caféでfür Elise、fête, gård, ça、Stra ße œuvre、〔note: a, b〕と〔注〕"
