"""Draws the pictures of the pages: `python scripts/pictures.py`. Their text is in English and Japanese, in two files.

SVG by hand: few shapes, the same bytes on every machine, colours that can be read on white and on dark grey.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
INK, LINE = "#7d8590", "#7d8590"  # text and arrows: contrast of 4 and more on white and on #1e2129
BLUE, ORANGE, GREEN, RED = "#3b82d0", "#c9701e", "#2f9461", "#cf5561"
FONT = 'font-family="system-ui, Hiragino Sans, Noto Sans CJK JP, Yu Gothic, Meiryo, sans-serif"'
Words = Callable[[str, str], str]  # (English, Japanese) → what this picture says


@dataclass
class Drawing:
    """Shapes on a sheet, in the order in which they are drawn."""

    width: int
    height: int
    title: str
    shapes: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, size: int = 14, colour: str = INK, anchor: str = "middle") -> None:
        self.shapes.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def box(self, x: float, y: float, width: float, height: float, words: str = "", colour: str = BLUE) -> None:
        """A box with one or more lines in its middle."""
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{colour}" '
            f'fill-opacity="0.14" stroke="{colour}" stroke-width="1.5"/>'
        )
        lines = words.split("\n")
        for number, line in enumerate(lines):
            self.text(x + width / 2, y + height / 2 + 5 + 17 * (number - (len(lines) - 1) / 2), line, 14, colour)

    def arrow(self, x: float, y: float, to_x: float, to_y: float, colour: str = LINE) -> None:
        self.shapes.append(
            f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="{colour}" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )

    def path(self, points: list[tuple[float, float]], colour: str, width: float = 2, dashes: str = "") -> None:
        where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.shapes.append(
            f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'
        )

    def svg(self) -> str:
        """The file's text."""
        tip = (
            '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="{LINE}"/></marker>'
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img" {FONT}>'
            f"<title>{escape(self.title)}</title><defs>{tip}</defs>"
        )
        return "\n".join([head, *self.shapes, "</svg>"]) + "\n"


def way(say: Words) -> Drawing:
    """From text to chat."""
    drawing = Drawing(760, 260, say("From text to a model that chats", "テキストから話すモデルまで"))
    stages = [
        (say("text", "テキスト"), say("documents", "文書"), ORANGE),
        (say("tokenizer", "トークナイザ"), say("pieces of words", "語の断片"), ORANGE),
        (say("shards", "シャード"), say("token ids", "トークンの番号"), ORANGE),
        (say("pretraining", "事前学習"), say("the next token", "次のトークン"), BLUE),
        (say("tuning", "チューニング"), say("how to answer", "答え方"), BLUE),
        (say("chat", "チャット"), say("a small state", "小さな状態"), GREEN),
    ]
    for number, (name, below, colour) in enumerate(stages):
        x = 10 + 126 * number
        drawing.box(x, 90, 104, 50, name, colour)
        drawing.text(x + 52, 160, below, 12)
        if number < len(stages) - 1:
            drawing.arrow(x + 106, 115, x + 124, 115)
    drawing.box(451, 20, 230, 40, say("conversations → loss mask", "会話 → 損失のマスク"), ORANGE)
    drawing.arrow(566, 62, 566, 87)
    drawing.box(388, 200, 230, 40, say("held-out text → bits per byte", "未学習テキスト → bits per byte"), RED)
    drawing.arrow(440, 168, 440, 197)
    drawing.arrow(566, 168, 566, 197)
    return drawing


def block(say: Words) -> Drawing:
    """One block of the model."""
    drawing = Drawing(
        760,
        430,
        say("The block: what is parallel, and the one line that isn't", "ブロック: 並列に計算する所と、そうでない一行"),
    )
    drawing.text(120, 24, "x_t", 16)
    drawing.arrow(120, 32, 120, 52)
    drawing.box(60, 54, 120, 34, "RMSNorm", INK)
    for number, (name, below) in enumerate(
        [
            ("z_t", say("what to write", "書くもの")),
            ("log a_t", say("how much to keep", "残す割合")),
            ("g_t", say("what to show", "見せるもの")),
        ]
    ):
        x = 250 + 170 * number
        drawing.box(x, 54, 140, 34, name, ORANGE)
        drawing.text(x + 70, 108, below, 12)
    drawing.arrow(180, 71, 246, 71)
    drawing.path([(180, 71), (212, 71), (212, 38), (660, 38)], LINE, 1.5)
    for x in (490, 660):
        drawing.arrow(x, 38, x, 52)
    drawing.box(250, 160, 310, 54, "c_t = a_t · c_{t-1} + z_t", BLUE)
    drawing.arrow(320, 116, 320, 157)
    drawing.arrow(490, 116, 490, 157)
    drawing.path([(560, 200), (590, 200), (590, 236), (220, 236), (220, 200)], BLUE, 1.5)
    drawing.arrow(220, 200, 247, 200, BLUE)
    drawing.text(
        405,
        254,
        say("the state: the only thing that waits for the step before", "状態: 前の時刻を待つのはこれだけ"),
        12,
        BLUE,
    )
    drawing.arrow(405, 262, 405, 284)
    drawing.box(250, 286, 310, 34, say("normalise each head, Linear_y", "ヘッドごとに正規化、Linear_y"), INK)
    drawing.arrow(562, 303, 638, 303)
    drawing.box(640, 286, 40, 34, "⊙", ORANGE)
    drawing.arrow(660, 116, 660, 283)
    drawing.path([(660, 320), (660, 350), (120, 350)], LINE, 1.5)
    drawing.path([(60, 32), (30, 32), (30, 350), (100, 350)], LINE, 1.5, "5 4")
    drawing.arrow(112, 32, 60, 32)
    drawing.text(120, 356, "+", 20)
    drawing.arrow(120, 362, 120, 384)
    drawing.box(60, 386, 200, 34, say("x + SwiGLU(RMSNorm(x))", "x + SwiGLU(RMSNorm(x))"), GREEN)
    drawing.text(40, 210, say("residual", "残差"), 12, INK, "start")
    drawing.arrow(262, 403, 300, 403)
    drawing.text(310, 408, say("to the next block", "次のブロックへ"), 12, INK, "start")
    return drawing


def scan(say: Words) -> Drawing:
    """The scan as a tree: spans that are joined."""
    drawing = Drawing(760, 330, say("The scan: spans are joined two by two", "スキャン: 区間を二つずつ合わせる"))
    left, step = 40, 86
    for level, span in enumerate((1, 2, 4, 8)):
        y = 270 - 72 * level
        for number in range(8 // span):
            x = left + step * number * span
            width = step * span - 10
            first, last = number * span + 1, (number + 1) * span
            words = f"a_{first}, z_{first}" if span == 1 else f"A, Z : {first} … {last}"
            drawing.box(x, y, width, 36, words, (ORANGE, BLUE, BLUE, GREEN)[level])
            if level:
                for half in (0.25, 0.75):
                    drawing.arrow(x + width * half, y + 70, x + width * half, y + 39)
    drawing.text(380, 26, "(A, Z) ∘ (A', Z') = (A'·A,  A'·Z + Z')", 16, BLUE)
    drawing.text(
        380,
        324,
        say(
            "8 steps in 3 rounds; each round's pairs don't wait for each other",
            "8 時刻を 3 回で。一回の中の組は、互いを待たない",
        ),
        12,
    )
    return drawing


def memory(say: Words) -> Drawing:
    """What is left of an input, for gates of different timescales."""
    drawing = Drawing(760, 330, say("What is left of an input after t steps", "t 時刻後に、入力がどれだけ残るか"))
    left, right, top, bottom, steps = 70, 600, 40, 280, 200
    drawing.path([(left, top), (left, bottom), (right, bottom)], LINE, 1.5)
    for share in (0, 0.5, 1):
        y = bottom - (bottom - top) * share
        drawing.text(left - 10, y + 5, f"{share:g}", 12, INK, "end")
        drawing.path([(left, y), (right, y)], LINE, 0.5, "2 4")
    for t in range(0, steps + 1, 50):
        drawing.text(left + (right - left) * t / steps, bottom + 20, str(t), 12)
    drawing.text((left + right) / 2, 318, say("steps since the input, t", "入力からの時刻の数 t"), 12)
    for row, (timescale, colour) in enumerate(((4, RED), (16, ORANGE), (64, BLUE), (256, GREEN))):
        kept = [(1 - 1 / timescale) ** t for t in range(steps + 1)]
        points = [(left + (right - left) * t / steps, bottom - (bottom - top) * share) for t, share in enumerate(kept)]
        drawing.path(points, colour, 2.5)
        drawing.text(right + 14, 70 + 24 * row, f"a = 1 − 1/{timescale}", 14, colour, "start")
    drawing.text(right + 14, 46, say("gate", "ゲート"), 12, INK, "start")
    return drawing


PICTURES = {"way": way, "block": block, "scan": scan, "memory": memory}


def main() -> None:
    for name, draw in PICTURES.items():
        for suffix, language in (("", 0), (".ja", 1)):
            text = draw(lambda *words, language=language: words[language]).svg()  # type: ignore[misc]
            (FOLDER / f"{name}{suffix}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
