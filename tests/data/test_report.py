"""sioconv.data.report: what was left out is said, and commands nobody's terminal."""

from pathlib import Path

from sioconv.data.report import account_of, summary, write_account
from sioconv.data.tally import Counted, Tally, as_json, from_json, merged


def test_a_report_names_parts_and_holds_no_escape_sequences(tmp_path: Path) -> None:
    tally = Tally("read", seen=2)
    tally.drop("role '\x1b[31m'", "a\x1b]0;b\x07.jsonl:1", "text\x1b[2J `x`\x9b1m")
    tally.parts["table"] = Counted(3, [["a.xml:page 1", ""]])
    write_account(tmp_path, account_of("s", [tally], None, {"train": 1, "heldout": 0}))
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not any((ord(char) < 0x20 and char != "\n") or 0x7F <= ord(char) < 0xA0 for char in report)
    assert "- `a␛]0;b␇.jsonl:1`: text␛[2J 'x'␛[1m" in report
    assert "3 × table\n\n- `a.xml:page 1`" in report


def test_text_beside_turns_is_named_on_the_terminal_and_in_the_report(tmp_path: Path) -> None:
    def tally(where: str, *names: str) -> Tally:
        read = Tally("read", seen=2)
        for name in names:
            read.beside[name] = Counted(2, [[f"{where}:1", ""]])
        return from_json(as_json(read))

    read = merged([tally("a", "persona", "why\x1b[2J"), tally("b", "persona", "c", "d")])
    values = account_of("talks", [read], None, {"train": 4, "heldout": 0})
    line = summary(values, tmp_path)
    assert line is not None and "text beside the turns isn't learned: persona (4 rows), why␛[2J (2 rows), c (2" in line
    assert "and 1 more: put it into a turn, or name it in ignore_columns" in line
    write_account(tmp_path, values)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Text beside the turns, which isn't learned\n\n4 × persona\n\n- `a:1`\n- `b:1`" in report
