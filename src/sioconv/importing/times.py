"""Dates as exports write them, of which some don't say whether the day or the month comes first."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import pairwise

from sioconv.importing.items import Note

EPOCH = datetime(1970, 1, 1)
WEEKDAYS = {
    name: number
    for number, names in enumerate(["月mon", "火tue", "水wed", "木thu", "金fri", "土sat", "日sun"])
    for name in (names[0], names[1:])
}
# Signs of direction and the narrow spaces that phones write around times.
MARKS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
AFTERNOON = re.compile(r"^(午後|下午|오후|p\.?\s?m\.?)$", re.IGNORECASE)
MORNING = re.compile(r"^(午前|上午|오전|a\.?\s?m\.?)$", re.IGNORECASE)
HALF = r"午前|午後|上午|下午|오전|오후|[aApP]\.?\s?[mM]\.?"


def seconds(moment: datetime) -> float:
    """Seconds since 1970 on the moment's own clock."""
    return (moment.replace(tzinfo=None) - EPOCH).total_seconds()


def clock(hour: str, minute: str, second: str | None, half: str | None) -> timedelta | None:
    """The time of a day; None for one that isn't."""
    hours = int(hour)
    if half and hours <= 12:
        hours = hours % 12 + 12 * bool(AFTERNOON.match(half.strip()))
    if hours > 24 or int(minute) > 59:
        return None
    return timedelta(hours=hours, minutes=int(minute), seconds=int(second or 0))


def day_of(parts: tuple[int, int, int], day_first: bool) -> datetime | None:
    """The day that three numbers name; None where they name none. A first number over 31 is the year."""
    first, second, third = parts
    if first > 31:
        year, month, day = parts
    else:
        year = third
        day, month = (first, second) if day_first else (second, first)
    year += 2000 * (year < 100)
    try:
        return datetime(year, month, day)
    except ValueError:
        return None


def day_first(dates: Iterable[tuple[int, int, int]]) -> bool | None:
    """Whether the day comes before the month in the dates of a file; None where nothing tells.

    A number over 12 tells; else that time doesn't go back.
    """
    some: list[tuple[int, int, int]] = []
    for date in dates:
        if date[0] > 31:
            return False
        if date[0] > 12 or date[1] > 12:
            return date[0] > 12
        if not some or some[-1] != date:
            some.append(date)
    rises = []
    for first in (True, False):
        days = [day for date in some if (day := day_of(date, first))]
        rises.append(sum(later >= earlier for earlier, later in pairwise(days)))
    return None if rises[0] == rises[1] else rises[0] > rises[1]


def order_taken(days_first: bool) -> Note:
    """What is told where nothing in a file says which comes first."""
    first = "the day" if days_first else "the month"
    return Note(f"its dates don't tell whether day or month comes first: {first} is taken; --dates decides")
