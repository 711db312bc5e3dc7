"""Responses and conversations in a backing."""

import pytest

from sioconv.serve.memory.in_memory import InMemory
from sioconv.serve.memory.records import KIND, Record, Records


@pytest.mark.parametrize("place", [0, 30, 70, 90, -1])
def test_a_stored_response_that_has_changed_is_not_used(place: int, caplog: pytest.LogCaptureFixture) -> None:
    backing = InMemory(1 << 20)
    records = Records(backing)
    record = Record({"text": "川は海へ流れる。", "id": "resp_1"}, b"a state")
    assert records.put("owner", "resp_1", record) and records.get("owner", "resp_1") == record
    found = backing.first(KIND, ["owner/resp_1"])
    assert found is not None
    changed = bytearray(found[1])
    changed[place] ^= 4
    backing.put(KIND, "owner/resp_1", bytes(changed))
    assert records.get("owner", "resp_1") is None
    assert "resp_1 is not what was stored" in caplog.text


def test_a_response_stored_by_an_older_version_is_read() -> None:
    backing = InMemory(1 << 20)
    backing.put(KIND, "owner/resp_1", b'{"text": "a"}\n\x00\n{')
    assert Records(backing).get("owner", "resp_1") == Record({"text": "a"}, b"\x00\n{")
