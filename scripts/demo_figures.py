"""Writes the demo's figures into the READMEs and the first pages of docs/: `python scripts/demo_figures.py`.

docs/demo.json holds them: what was `measured`, and the part of the run's report/summary.json that the pages show.
`python scripts/demo_figures.py runs/demo/report/summary.json --cores 2 --commit 0123abc` takes those of a new run.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "demo.json"
BEGIN = "<!-- The figures of docs/demo.json, written by scripts/demo_figures.py -->\n"
END = "<!-- The end of these figures -->\n"

ENGLISH = """\
On {cores} CPU cores it took {minutes:.1f} minutes after an installation of one or two ({date}; a busy machine sees
fewer tokens in the same time):

| held-out bits per byte | pretrained | tuned | `xz -9e`, primed | byte 7-gram |
|---|---:|---:|---:|---:|
| Japanese | {ja} |
| English | {en} |

{parameters} million parameters, {tokens} million tokens, {seen} of {seen_questions} seen questions and
{unseen} of {unseen_questions} unseen ones answered right.
"""
JAPANESE = """\
CPU {cores} コアで、1、2 分のインストールの後、{minutes:.1f} 分でした({date}。
混んだ機械では、同じ時間に学習するトークンが少なくなります):

| 未学習テキストの bits per byte | 事前学習後 | チューニング後 | 準備した `xz -9e` | バイト 7-gram |
|---|---:|---:|---:|---:|
| 日本語 | {ja} |
| 英語 | {en} |

パラメータ {parameters} 万、学習 {tokens} 万トークン。
学習した質問 {seen_questions} 問の{seen}、学習していない質問 {unseen_questions} 問の{unseen}に正しく答えました。
"""
# page → (its words, how it says millions, a share and the share of all)
IN_ENGLISH = (ENGLISH, lambda millions: f"{millions:.1f}", "{:.0f} %", "all")
IN_JAPANESE = (JAPANESE, lambda millions: f"{round(millions, 1) * 100:.0f}", " {:.0f} % ", "すべて")
PAGES = {
    "README.md": IN_ENGLISH,
    "README.ja.md": IN_JAPANESE,
    "docs/index.md": IN_ENGLISH,
    "docs/index.ja.md": IN_JAPANESE,
}


def figures_in_words(figures: Figures, page: str) -> str:
    """What a page says of the figures, in its language."""
    words, say, some, every = PAGES[page]
    minutes = figures["minutes"]["total"] - (figures["minutes"]["install"] or 0)
    values: Figures = {"minutes": minutes, **figures["measured"]}
    for language in ("ja", "en"):
        marks = figures["yardsticks"][language]
        bits = [figures["bpb"][language], figures["bpb_tuned"][language], marks["xz_primed"], marks["ngram7"]]
        values[language] = " | ".join(f"{value:.3f}" for value in bits)
    for name, answers in figures["chat"].items():
        share = every if answers["right"] == 1 else some.format(100 * answers["right"])
        values |= {name: share, f"{name}_questions": answers["questions"]}
    values |= {name: say(figures[name] / 1e6) for name in ("parameters", "tokens")}
    return words.format(**values)


def with_figures(text: str, words: str) -> str:
    """A page's text with other figures between the two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + words + END + after


def of_summary(summary: Figures, cores: int, commit: str) -> Figures:
    """The part of a report's summary that the pages show, and what was measured when and on what."""
    kept = {name: summary[name] for name in ("yardsticks", "parameters", "tokens", "minutes")}
    bits = {name: {key: summary[name][key] for key in ("ja", "en")} for name in ("bpb", "bpb_tuned")}
    chat = {name: {key: summary["chat"][name][key] for key in ("questions", "right")} for name in ("seen", "unseen")}
    measured = {"date": date.today().isoformat(), "cores": cores, "commit": commit}
    return {"measured": measured, **bits, "chat": chat, **kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summary", type=Path, nargs="?", help="report/summary.json of a new measurement")
    parser.add_argument("--cores", type=int, help="CPU cores of the machine")
    parser.add_argument("--commit", help="what was measured")
    arguments = parser.parse_args()
    if arguments.summary:
        if arguments.cores is None or arguments.commit is None:
            parser.error("a new measurement needs --cores and --commit")
        summary = json.loads(arguments.summary.read_text(encoding="utf-8"))
        figures = of_summary(summary, arguments.cores, arguments.commit)
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    for name in PAGES:
        path = ROOT / name
        text = with_figures(path.read_text(encoding="utf-8"), figures_in_words(figures, name))
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
