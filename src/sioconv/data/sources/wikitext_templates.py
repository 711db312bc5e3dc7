"""The templates whose text stands in the page that uses them: what each shows of its arguments.

Other templates get their text from a page of their own, which an article's source doesn't hold.
"""

import re
from collections.abc import Sequence

# Names, then what is shown: {1} an argument by its place, {name} by its name, {last} the last by place, {all} all of
# them in a row, {lines} each on a line; of several after "or" the first that has a text.
SHOWN = """
ruby, rubyja, ルビ, ふりがな, 読み仮名, 読み仮名 ruby不使用, 読み仮名_ruby不使用, ruby-ja: {1}({2})
lang, lang2, transl, transliteration, font color, fontcolor, color, colour, 色, bgcolor, background color: {last}
仮リンク, ill, illm, interlanguage link, link-interwiki, 日本語版にない記事リンク, en-link: {label} or {lt} or {1}
nihongo, nihongo2, nihongo3: {1} ({2})
要出典範囲, 要検証範囲, 誰範囲, 要説明範囲, 独自研究範囲, citation needed span, cn span: {1} or {text}
quote, quotation, cquote, blockquote, bquote, quote box, 引用, rquote, poemquote, poem quote: {text} or {quote} or {1}
nowrap, nobr, small, big, smaller, larger, large, nobold, em, strong, mono, code, kbd, var, samp, mvar, math: {1}
abbr, tooltip, underline, uline, strike, visible anchor, vanchor, by, flag, flagcountry, center, block indent: {1}
indent, unicode, ipa, script, angle bracket, keypress, key, lc, uc, not a typo, sic, proper name, overline: {1}
jis2004フォント, jis90フォント, 補助漢字フォント, 拡張漢字, cp932フォント, 旧字体, 旧字, 新字体, 繁体字, 簡体字: {1}
補助漢字, 特殊文字, 外字, pua, フォント, spell, 縦書き, 強調, 傍点, kenten, 圏点, 下線, 取り消し線, 太字, 斜体: {1}
convert, cvt, conv, change: {1} {2}
val, formatnum, nts, number, num, sort, small caps, smallcaps, sc, 桁区切り: {last}
frac, fraction, sfrac, 分数: {1}/{2}
sup, sub, smallsup, su, exp: {1}
chem, chem2, ce, 化学式, linktext, l, nobreak: {all}
hlist, flatlist, plainlist, unbulleted list, ubl, bulleted list, ordered list, plain list, 縦並びリスト: {lines}
"""
SIGNS = {
    "!": "|", "=": "=", "(": "{", ")": "}", "((": "{{", "))": "}}", "snd": " – ", "spaced ndash": " – ", "ndash": "–",
    "mdash": "—", "em dash": "—", "spaced en dash": " – ", "dash": "—", "nbsp": " ", "space": " ", "全角空白": "　",
    "spaces": " ", "·": " · ", "dot": " · ", "•": " • ", "bull": " • ", "'": "'", "\"": '"', "pi": "π", "°": "°",
}  # fmt: skip
FORMS = {
    name.strip(): form.strip().split(" or ")
    for line in SHOWN.strip().splitlines()
    for names, _, form in [line.partition(":")]
    for name in names.split(",")
}
NAMED = re.compile(r"\s*([\w \-]{1,40}?)\s*=(.*)", re.DOTALL)


def template_text(name: str, parts: Sequence[str]) -> str | None:
    """What a template shows; None where its text isn't in the page.

    Args:
        name: as the page writes it.
        parts: what follows, each maybe with its name and `=` before it.
    """
    known = name.replace("_", " ").casefold()
    if known in SIGNS:
        return SIGNS[known]
    forms = FORMS.get(known, ["{last}"] if re.fullmatch(r"(lang|ipa)-[a-z-]+", known) else None)
    if forms is None:
        return None
    arguments: dict[str, str] = {}
    places = []
    for part in parts:
        named = NAMED.match(part)
        if named and not named[1].isdecimal():
            arguments[named[1]] = named[2].strip()
        else:
            places.append(named[2] if named else part)
    arguments |= {str(number): text.strip() for number, text in enumerate(places, start=1)}
    arguments["last"] = places[-1].strip() if places else ""
    arguments["all"], arguments["lines"] = "".join(map(str.strip, places)), "\n".join(places)
    shown = (re.sub(r"\{(\w+)\}", lambda match: arguments.get(match[1], ""), form) for form in forms)
    return next((text for text in shown if text.strip()), "").replace("()", "").strip(" ")
