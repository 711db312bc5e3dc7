"""Pictures with what is hard to draw: names that no font may have, points that are missing."""

import warnings
import xml.etree.ElementTree as ET

import pytest

from sioconv.evaluate.pictures import ascii_label, loss_picture, timescale_picture


def row(split: str, source: str | None, **values: float | None) -> dict[str, object]:
    return {"stage": "pretrain", "tokens": 1000, "split": split, "source": source, "loss": 2.0, "bpb": None} | values


@pytest.mark.parametrize(
    ("name", "label"),
    [("sentences_ja", "sentences_ja"), ("日本語", "?"), ("a$b$", "?"), ("_hidden", "?"), ("a\n", "?")],
)
def test_labels_are_letters_that_every_font_has(name: str, label: str) -> None:
    assert ascii_label(name, "?") == label


@pytest.mark.parametrize(
    "metrics",
    [
        [row("train", None)],
        [row("train", None, loss=float("nan")), row("heldout", "日本語", bpb=1.5), row("heldout", "$x_", bpb=1.2)],
        [row("heldout", "chat")],
        [row("heldout", f"source{i}", bpb=1.0 + i) for i in range(15)],
    ],
)
def test_loss_pictures_of_odd_runs(metrics: list[dict[str, object]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ET.fromstring(loss_picture(metrics)).tag.endswith("svg")


@pytest.mark.parametrize("layers", [[[1.0]], [[0.01, 1e6], [5.0, 5.0]], [[2.0, 3.0]] * 48])
def test_timescale_pictures(layers: list[list[float]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ET.fromstring(timescale_picture(layers)).tag.endswith("svg")
