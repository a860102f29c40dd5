"""The comparison's page in a real browser: silent, alone, and what it shows is what the sweeps hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeps.report.comparison_page import write_comparison
from sweeps.results import comparison
from sweeps.store.store import Store
from tests.support.browser import HOSTILE, Browser, drawn
from tests.support.random_results import stored, trials


@pytest.fixture
def page_of_two(store: Store, tmp_path: Path) -> Path:
    named = {"config": {"name": HOSTILE[:190]}}
    files = [stored(store, "a1a1", trials(1), **named), stored(store, "b2b2", trials(2), context="other", **named)]
    path = tmp_path / "page.html"
    write_comparison(comparison.compare(files), path)
    return path


def test_silent_alone_and_true_in_light_and_dark(page_of_two: Path, browser: Browser) -> None:
    def look(page: Any) -> dict[str, Any]:
        drawn(page)
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
        return {
            "ran": page.evaluate("window.ran"),
            "name": page.locator("h1").inner_text(),
            "figures": page.evaluate("[...document.querySelectorAll('.plotly-graph-div')].map(plot => plot.id)"),
            "maps": page.locator("#figure-maps .annotation-text").all_text_contents(),
            "counts": page.locator("#table-transitions-B tbody tr").all_inner_texts(),
            "ground": page.evaluate("getComputedStyle(document.body).backgroundColor"),
            "fits": page.evaluate("document.documentElement.scrollWidth <= innerWidth"),
        }

    light, dark = browser.visit(page_of_two, look), browser.visit(page_of_two, look, dark=True, width=480)
    assert light.pop("ground") != dark.pop("ground")
    assert light == dark
    assert light["ran"] is None
    assert light["name"] == HOSTILE[:190]
    assert light["figures"] == ["figure-shares", "figure-maps", "figure-changed-B", "figure-curves"]
    assert light["maps"] == ["A (a1a1)", "B (b2b2)"]
    assert light["fits"]
    before, after = trials(1)["verdict"], trials(2)["verdict"]
    for row in light["counts"]:
        verdict, *counts = row.split()[-7:]
        both = [((before == verdict) & (after == now)).sum() for now in ("converged", "converging", "stalled")]
        assert [int(count) for count in counts[:3]] == both
        assert int(counts[-1]) == (before == verdict).sum()


def test_the_button_shows_the_ratio(page_of_two: Path, browser: Browser) -> None:
    shown = "document.getElementById('figure-changed-B')._fullData.filter(t => t.visible === true && t.opacity === 1)"

    def look(page: Any) -> tuple[int, int, str]:
        drawn(page)
        before = page.evaluate(f"{shown}.filter(t => t.showscale).length")
        page.locator("#figure-changed-B .updatemenu-button", has_text="Final loss ratio").click()
        after = page.evaluate(f"{shown}.filter(t => t.showscale).length")
        return before, after, page.locator("#figure-changed-B .infolayer").first.text_content()

    before, after, told = browser.visit(page_of_two, look)
    assert (before, after) == (0, 1)
    assert "final loss, B over A" in told
