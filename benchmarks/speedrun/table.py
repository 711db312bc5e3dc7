"""docs/leaderboard.md and its Japanese twin, made of the results and of nothing else."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy import stats

from benchmarks.speedrun.arms import Arm, as_word, flat
from benchmarks.speedrun.training import CHANGED
from sioconv.files import atomic_write

WIDTH = 116  # of a line of a command, without its end
PAGES = Path(__file__).parents[2] / "docs"
HOW = "train."  # settings that say how an arm is trained here, not what it is, unless they are named below
WHAT = ("train.lr", "train.batch_size", "train.optimizer", "train.schedule", "train.decay", "train.beta2")
SOURCES = "data.sources."
NEUTRAL = (
    "train.threads",
    "train.checkpoint_every",
    "train.sample_prompts",
    "train.validate_every",
)  # change no result
FOR_AN_INTERVAL, FOR_A_RECORD = 3, 5  # seeds


@dataclass(frozen=True)
class Words:
    """What a page says in one language."""

    file: str
    title: str
    other: str
    intro: str
    heading: str
    heading_of_minutes: str
    columns: tuple[str, ...]
    commands: str
    nothing: str


ENGLISH = Words(
    file="leaderboard.md",
    title="Leaderboard",
    other="日本語: [leaderboard.ja.md](leaderboard.ja.md)",
    intro="""Held-out bits per byte after the same number of training tokens, or of minutes. Minutes are turned into
tokens by the speeds of benchmarks/speedrun/speeds.jsonl, which were measured in turns on an idle machine, so that noise
ranks nobody. A track's text and held-out text are always the same; an arm that adds text trains its tokenizer on that
as well, so it has other tokens of nearly the same length. *ja* and *en* leave out the templated gazetteer, and *mean*
is the mean of the two. *recall* is how much better 16 spans of 32 tokens of the held-out text are predicted right after
they were read once, in nats a token (rows of before 30 November 2026 don't have it).
An arm's figures are the means of its seeds; from three seeds on, *±* is the 95 % interval of the mean by Student's t.
*p* is of Welch's t-test against the next row below with five seeds or more: a record needs five seeds and p < 0.01
against the one before; rows with fewer are results on the way. Tokens a second are of machines that did other work as
well, and rank nobody. *+* in the settings names text that the track doesn't have; the commands below have every share.

`python -m benchmarks.speedrun table` makes this page of benchmarks/speedrun/results.jsonl;
`python -m benchmarks.speedrun queue benchmarks/speedrun/queue.yaml` adds results, and with a GPU, arm beside arm,
`python -m benchmarks.speedrun many benchmarks/speedrun/queue.yaml`; an arm's rows may be of several machines. Budgets
in minutes are those of benchmarks/speedrun/minutes.yaml: `python -m benchmarks.speedrun calibrate` measures its speeds.
What was learnt is in [experiments.md](experiments.md).""",
    heading="Track *{track}*, {budget:,} tokens",
    heading_of_minutes="Track *{track}*, {budget:g} minutes on {machine}",
    columns=(
        *("arm", "settings", "tokens", "parameters", "state bytes", "seeds", "ja", "en", "mean", "±", "p", "recall"),
        *("tokens/s", "precision", "date", "commit"),
    ),
    commands="Commands",
    nothing="There are no results yet.",
)
JAPANESE = Words(
    file="leaderboard.ja.md",
    title="順位表",
    other="English: [leaderboard.md](leaderboard.md)",
    intro="""同じトークン数、または同じ分数だけ学習した後の、学習に使わなかった文章のバイトあたりビット数です。
分数は、空いている計算機で交互に測った速さ（benchmarks/speedrun/speeds.jsonl）でトークン数に直します。
トラックごとに、文章と評価用の文章は常に同じです。文章を加えた学習では、トークナイザもそれを含めて学習するので、トークンが少し違います。
*ja* と *en* は定型文の地名データを除いた値、*平均* は二つの平均です。
*想起* は、評価用の文章の 32 トークンの区間 16 個を、一度読んだ直後にどれだけよく予測するかです
（1 トークンあたりナット）。
2026 年 11 月 30 日より前の行にはありません。
各行の値はシードの平均です。シードが三つ以上なら、± は Student の t による平均の 95 % 信頼区間です。
p は、シードが五つ以上ある次の行（下の行）に対する Welch の t 検定の値です。
記録と認めるには、五つのシードと、前の記録に対する p < 0.01 が必要です。それより少ない行は途中の結果です。
毎秒トークン数は、他の作業もしていた計算機の値なので、順位には使いません。
設定の + は、トラックにない文章を加えたことを表します。割合はすべて下のコマンドにあります。

このページは `python -m benchmarks.speedrun table` が benchmarks/speedrun/results.jsonl から作ります。
結果は `python -m benchmarks.speedrun queue benchmarks/speedrun/queue.yaml` で増えます。
分数で数える学習は benchmarks/speedrun/minutes.yaml にあり、
速さは `python -m benchmarks.speedrun calibrate` で測ります。
GPU があれば `python -m benchmarks.speedrun many benchmarks/speedrun/queue.yaml` で同時に学習できます。
一つの行に、いくつかの計算機の結果が含まれることがあります。
わかったことは [experiments.md](experiments.md)（英語）にあります。""",
    heading="トラック *{track}*、{budget:,} トークン",
    heading_of_minutes="トラック *{track}*、{budget:g} 分（{machine}）",
    columns=(
        *("名前", "設定", "トークン", "パラメータ", "状態のバイト数", "シード数", "ja", "en", "平均", "±", "p", "想起"),
        *("トークン/秒", "精度", "日付", "コミット"),
    ),
    commands="コマンド",
    nothing="結果はまだありません。",
)


def write_pages(rows: Sequence[dict[str, Any]], folder: Path = PAGES) -> None:
    """Writes both pages."""
    for words in (ENGLISH, JAPANESE):
        with atomic_write(folder / words.file) as temporary:
            temporary.write_text(page(rows, words), encoding="utf-8")


def page(rows: Sequence[dict[str, Any]], words: Words) -> str:
    """A page: a table for each track and number of tokens or minutes, the fewest bits first, and the commands."""
    parts = [f"# {words.title}", words.other, words.intro]
    for budget in sorted(set(map(_budget, rows))):
        track, machine, amount = budget
        here = [row for row in rows if _budget(row) == budget]
        arms = sorted(_arms(here), key=lambda arm: _mean(arm, "mean"))
        right = [name in words.columns[2:13] for name in words.columns]
        rule = "|".join("---:" if each else "---" for each in right)
        lines = [f"| {' | '.join(words.columns)} |", f"|{rule}|", *map(_line, arms, _against_the_next(arms))]
        commands = "\n".join(_command(arm[0]) for arm in arms)
        heading = words.heading_of_minutes if machine else words.heading
        parts += [f"## {heading.format(track=track, budget=amount, machine=machine)}", "\n".join(lines)]
        parts += ['<details markdown="1">', f"<summary>{words.commands}</summary>", commands, "</details>"]
    if not rows:
        parts.append(words.nothing)
    return "\n\n".join(parts) + "\n"


def _budget(row: dict[str, Any]) -> tuple[str, str, float]:
    """The track, the machine whose minutes the budget is in ("" where it is in tokens), and how many it is."""
    return row["track"], row.get("minutes_of", ""), row.get("minutes", row["tokens"])


def _arms(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows, those of one arm together: its seeds, with the same settings but what changes no result.

    Minutes of two calibrations are two numbers of tokens, whose figures have no mean.
    """
    arms: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        what = {key: value for key, value in flat(row["settings"]).items() if key not in NEUTRAL}
        arms.setdefault(f"{row['name']} {row['tokens']} {json.dumps(what, sort_keys=True)}", []).append(row)
    return list(arms.values())


def _mean(arm: Sequence[dict[str, Any]], what: str) -> float:
    return fmean(_by_seed(arm, what))


def _by_seed(arm: Sequence[dict[str, Any]], what: str) -> list[float]:
    """Bits per byte of each seed; one that several machines trained counts once."""
    seeds: dict[int, list[float]] = {}
    for row in arm:
        seeds.setdefault(row["seed"], []).append(row["bits_per_byte"][what])
    return [fmean(found) for found in seeds.values()]


def _interval(values: Sequence[float]) -> str:
    """Half of the mean's 95 % interval by Student's t."""
    if len(values) < FOR_AN_INTERVAL:
        return ""
    return f"{float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)):.4f}"


def _against_the_next(arms: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """Of each arm the p of Welch's t-test against the next one with seeds enough; "" where one of both has too few."""
    found, below = [], None
    for arm in reversed(arms):
        seeds = _by_seed(arm, "mean")
        enough = len(seeds) >= FOR_A_RECORD
        p = float(stats.ttest_ind(seeds, below, equal_var=False).pvalue) if enough and below else None
        found.append("" if p is None else f"{p:.2g}")
        below = seeds if enough else below
    return found[::-1]


def _line(arm: Sequence[dict[str, Any]], p: str) -> str:
    means, last = _by_seed(arm, "mean"), arm[-1]
    state = "" if last["state_bytes"] is None else f"{last['state_bytes']:,}"
    cells = [
        last["name"],
        _settings(last["settings"]),
        f"{last['tokens']:,}",
        f"{last['parameters']:,}",
        state,
        str(len(means)),
        *(f"{_mean(arm, what):.4f}" for what in ("ja", "en")),
        f"**{_mean(arm, 'mean'):.4f}**",
        _interval(means),
        p,
        _recall(arm),
        f"{fmean(row['tokens_per_second'] for row in arm):,.0f}",
        last["precision"],
        last["date"],
        ", ".join(dict.fromkeys(_short(row["commit"]) for row in arm)),
    ]
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _short(commit: str) -> str:
    return commit[:9] + (CHANGED if commit.endswith(CHANGED) else "")


def _recall(arm: Sequence[dict[str, Any]]) -> str:
    """Nats a token that a span gains right after it was read; "" where no row of the arm has it."""
    found = [row["recall"]["0"] for row in arm if "0" in row.get("recall", {})]
    return f"{fmean(found):.2f}" if found else ""


def _settings(settings: dict[str, Any]) -> str:
    """What an arm is: the model's settings and some of the training's, and the sources that it adds."""
    words = flat(settings)
    shown = [key for key in words if not key.startswith((HOW, SOURCES)) or key in WHAT]
    more = [key.removeprefix(SOURCES).removesuffix(".path") for key in words if key.endswith(".path")]
    return ", ".join(
        [*(f"{key.removeprefix('model.')} {as_word(words[key])}" for key in shown), *(f"+ {name}" for name in more)]
    )


def _command(row: dict[str, Any]) -> str:
    """What trains a row's arm, on lines that are short."""
    arm = Arm(*(row[key] for key in ("track", "name", "tokens", "seed", "settings")))
    lines, line = [], "   "
    for word in shlex.split(arm.command):
        quoted = shlex.quote(word)
        if len(line) + len(quoted) > WIDTH:
            lines.append(f"{line} \\")
            line = "     "
        line += f" {quoted}"
    return "\n".join([*lines, line])
