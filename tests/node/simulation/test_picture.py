"""The drawing of who holds what: every holding has its dot, areas are in proportion, and names stay text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np

from node.simulation.picture import LABELS_MAX, PEERS_MAX, holdings_picture, standalone

SVG = "{http://www.w3.org/2000/svg}"


def drawn(counts: list[list[int]], **options: object) -> ET.Element:
    counts_array = np.array(counts, dtype=np.int64)
    labels = options.pop("labels", None) or [str(k) for k in range(counts_array.shape[1])]
    return ET.fromstring(standalone(holdings_picture(counts_array, labels=labels, **options)))  # type: ignore[arg-type]


def test_a_dot_for_each_holding_with_area_in_proportion() -> None:
    picture = drawn([[400, 0], [100, 25]])
    dots = picture.findall(f"{SVG}circle")
    radii = [float(dot.attrib["r"]) for dot in dots]
    assert len(radii) == 3
    np.testing.assert_allclose(np.array(radii) / radii[0], [1, 0.5, 0.25], rtol=0.02)
    assert len({dot.attrib["cx"] for dot in dots}) == 2


def test_the_description_says_it_in_words() -> None:
    desc = drawn([[400, 0], [100, 25]]).findtext(f"{SVG}desc")
    assert desc == "2 peers hold 525 examples of 2 labels, 125 to 400 a peer; a peer has 1 to 2 of the labels."


def test_names_are_text_and_are_cut_where_there_is_no_room() -> None:
    picture = drawn([[1], [2]], peers=["<script>", "a hospital with a very long name that goes on and on and on"])
    texts = [element.text for element in picture.iter(f"{SVG}text")]
    assert "<script>" in texts
    assert any(text and text.endswith("\u2026") for text in texts)


def test_a_thousand_peers_and_a_hundred_labels_still_fit() -> None:
    counts = np.random.default_rng(0).integers(1, 50, (1000, 100))
    picture = drawn(counts.tolist())
    columns = {dot.attrib["cx"] for dot in picture.findall(f"{SVG}circle")}
    rows = {dot.attrib["cy"] for dot in picture.findall(f"{SVG}circle")}
    assert len(columns) == PEERS_MAX
    assert len(rows) == LABELS_MAX
    assert f"{PEERS_MAX} of 1,000 are drawn" in (picture.findtext(f"{SVG}desc") or "")
    assert f"{100 - LABELS_MAX + 1} others" in [element.text for element in picture.iter(f"{SVG}text")]


def test_nothing_is_drawn_outside_the_picture() -> None:
    for n in (1, 2, 60, 400):
        picture = drawn(np.full((n, 5), 9).tolist())
        _, _, width, height = map(float, picture.attrib["viewBox"].split())
        for dot in picture.findall(f"{SVG}circle"):
            x, y, r = (float(dot.attrib[name]) for name in ("cx", "cy", "r"))
            assert r <= x <= width - r
            assert r <= y <= height - r


def test_the_file_fetches_nothing() -> None:
    text = standalone(holdings_picture(np.array([[1]]), labels=["0"]))
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
