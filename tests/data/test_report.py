"""sioconv.data.report: what was left out is said, and commands nobody's terminal."""

from pathlib import Path

from sioconv.data.report import account_of, write_account
from sioconv.data.tally import Counted, Tally


def test_a_report_names_parts_and_holds_no_escape_sequences(tmp_path: Path) -> None:
    tally = Tally("read", seen=2)
    tally.drop("role '\x1b[31m'", "a\x1b]0;b\x07.jsonl:1", "text\x1b[2J `x`\x9b1m")
    tally.parts["table"] = Counted(3, [["a.xml:page 1", ""]])
    write_account(tmp_path, account_of("s", [tally], None, {"train": 1, "heldout": 0}))
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not any((ord(char) < 0x20 and char != "\n") or 0x7F <= ord(char) < 0xA0 for char in report)
    assert "- `a␛]0;b␇.jsonl:1`: text␛[2J 'x'␛[1m" in report
    assert "3 × table\n\n- `a.xml:page 1`" in report
