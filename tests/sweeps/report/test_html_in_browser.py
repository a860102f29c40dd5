"""The report page in a real browser: it draws, it is silent and asks for nothing, and what it shows is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sgdcore.verdict import VERDICTS
from sweeps.config.schema import SweepConfig
from sweeps.planning.prepared import PreparedSweep
from sweeps.report.files import write_report
from sweeps.results.results import Results, load_results
from sweeps.store.store import SweepFiles
from sweeps.verification.expected import check_expected
from tests.support.browser import HOSTILE, Browser, drawn

PARAMETERS = {
    "lr": {"min": 0.002, "max": 0.3, "count": 12, "scale": "log"},
    "momentum": {"values": [0, 0.5, 0.9]},
    "nesterov": {"values": [False, True]},
    "init.weight": {"value": -0.66},
    "init.bias": {"value": 0.33},
}
MAP = "document.getElementById('figure-map')"
SHOWN = f"""() => {MAP}._fullData.map((trace, i) => [trace, {MAP}.calcdata[i][0]])
    .filter(([trace, cells]) => trace.visible === true && trace.type === 'heatmap' && trace.opacity === 1)
    .map(([trace, cells]) => Array.from(cells.z, row => Array.from(row)))"""

Make = Callable[..., PreparedSweep]
Store = Callable[[PreparedSweep], SweepFiles]


@pytest.fixture
def line(make_prepared: Make, stored: Store) -> Results:
    prepared = make_prepared(parameters=PARAMETERS, training={"epochs": 60}, name=HOSTILE, description=HOSTILE)
    return load_results(stored(prepared))


def test_silent_and_alone_in_light_and_dark_wide_and_narrow(line: Results, browser: Browser) -> None:
    path = Path(write_report(line))

    def look(page: Any) -> tuple[int, str, bool]:
        drawn(page)
        plots = page.locator(".js-plotly-plot .main-svg").count()
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return plots, ground, page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    wide, narrow = browser.visit(path, look), browser.visit(path, look, dark=True, width=480)
    assert wide[0] == narrow[0] > 10
    assert wide[1] != narrow[1]
    assert wide[2]
    assert narrow[2]


OVERLAPS = """
[...document.querySelectorAll('#figure-effects :is(.annotation-text, .g-xtitle text, .g-ytitle text)')]
    .map(text => text.getBoundingClientRect())
    .some((a, i, all) => all.slice(i + 1).some(b =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1))
"""


def test_a_phone_scrolls_figures_whose_texts_need_more_room(line: Results, browser: Browser) -> None:
    path = Path(write_report(line))

    def look(page: Any) -> tuple[bool, bool]:
        drawn(page)
        return page.evaluate(OVERLAPS), page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    assert browser.visit(path, look, width=390) == (False, True)


def test_closed_sections_are_printed(line: Results, browser: Browser) -> None:
    path = Path(write_report(line))

    def look(page: Any) -> list[int]:
        closed = "document.querySelectorAll('details:not([open])').length"
        counts = [page.evaluate(closed)]
        for event in ("beforeprint", "afterprint"):
            page.evaluate(f"dispatchEvent(new Event('{event}'))")
            counts.append(page.evaluate(closed))
        return counts

    before, printed, after = browser.visit(path, look)
    assert (printed, after) == (0, before)
    assert before > 0


def test_the_map_has_the_right_cells(line: Results, browser: Browser) -> None:
    trials = pd.concat([pd.read_parquet(p) for p in sorted(line.files.shards.folder.glob("*.parquet"))])

    def look(page: Any) -> tuple[list[str], list[Any], list[Any]]:
        drawn(page)
        verdicts = page.evaluate(SHOWN)
        page.locator("#figure-map .updatemenu-button", has_text="Steps to tolerance").click()
        steps = page.evaluate(SHOWN)
        return page.locator("#figure-map .annotation-text").all_text_contents(), verdicts, steps

    titles, verdicts, steps = browser.visit(Path(write_report(line)), look)
    assert titles == ["nesterov false", "nesterov true"]
    for shown, fast, ahead in zip(verdicts, steps, (False, True), strict=True):
        some = trials[trials["nesterov"] == ahead]
        table = some.pivot(index="momentum", columns="lr", values="verdict").reindex([0, 0.5, 0.9])
        oracle = table.replace(dict(zip(VERDICTS, range(5), strict=True))).to_numpy(dtype=float)
        np.testing.assert_array_equal(np.array(shown, dtype=float), np.nan_to_num(oracle, nan=len(VERDICTS)))
        some = some.assign(steps=some["steps_to_tolerance"].where(some["verdict"] == "converged"))
        table = some.pivot(index="momentum", columns="lr", values="steps").reindex([0, 0.5, 0.9])
        arrived = table.to_numpy(dtype=float)
        levels = np.array(fast, dtype=float)
        assert ((levels < 224) == np.isfinite(arrived)).all()
        order = np.argsort(arrived[np.isfinite(arrived)], kind="stable")
        assert (np.diff(levels[np.isfinite(arrived)][order]) >= 0).all()


def test_pointing_at_a_cell_names_its_trial(line: Results, browser: Browser) -> None:
    trial = line.trials.query("momentum == 0.5 and not nesterov").sort_values("lr").iloc[4]

    def look(page: Any) -> str:
        drawn(page)
        x, y = page.evaluate(
            f"""([lr, row]) => {{
                const plot = {MAP}, box = plot.getBoundingClientRect(), layout = plot._fullLayout;
                window.scrollTo(0, box.top + scrollY - 100);
                const now = plot.getBoundingClientRect();
                return [now.left + layout.xaxis._offset + layout.xaxis.d2p(lr),
                        now.top + layout.yaxis._offset + layout.yaxis.d2p(row)];
            }}""",
            [float(trial["lr"]), 0.5],
        )
        page.mouse.move(x, y)
        page.mouse.move(x + 1, y + 1)
        return str(page.locator("#figure-map .hoverlayer").first.text_content(timeout=10_000))

    told = browser.visit(Path(write_report(line)), look)
    assert f"trial {trial['trial']}" in told
    assert "momentum 0.5" in told
    assert f"lr {trial['lr']:.5g}" in told
    assert float(told.split("final loss ")[1]) == pytest.approx(trial["final_loss"], rel=1e-3)


def test_html_in_names_is_shown_and_not_run(make_prepared: Make, stored: Store, browser: Browser) -> None:
    expected = [{"case": HOSTILE, "where": {"lr": 0.01}, "final": {"weight": 1.0}}]
    prepared = make_prepared(name=HOSTILE, description=HOSTILE, expected=expected)
    results = load_results(stored(prepared))
    path = Path(write_report(results, check_expected(prepared, results)))

    def look(page: Any) -> tuple[object, list[str], str]:
        drawn(page)
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
        places = [page.locator(css).first.inner_text() for css in ("h1", ".description", "#expected td")]
        return page.evaluate("window.ran"), places, page.locator("#reproduce pre").first.inner_text()

    ran, places, config = browser.visit(path, look)
    assert ran is None
    assert places == [HOSTILE] * 3
    assert config.strip() == results.files.config_path.read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("shards", [0, 1])
def test_unfinished_sweeps_open_too(
    make_config: Callable[..., SweepConfig], make_prepared: Make, stored: Store, browser: Browser, shards: int
) -> None:
    files = stored(make_prepared())
    for path in sorted(files.shards.folder.iterdir())[shards:]:
        path.unlink()
    heading = browser.visit(
        Path(write_report(load_results(files))), lambda page: page.locator(".lead").first.inner_text()
    )
    assert heading.startswith("4 of 12 trials are stored" if shards else "None of the 12 trials is stored yet")


def test_the_published_cases(browser: Browser, tmp_path: Path, make_prepared: Make, stored: Store) -> None:
    """Few trials of a model with two parameters: paths over the loss, the momentum case's star where w peaks."""
    start = {"init.weight": {"value": -0.66162831}, "init.bias": {"value": 0.33456254}}
    parameters = [{"lr": {"value": 0.1}, "momentum": {"value": m}, **start} for m in (0, 0.9)]
    prepared = make_prepared(parameters=parameters, training={"epochs": 1}, record={"spacing": "all"})

    def look(page: Any) -> list[list[float]]:
        drawn(page)
        found: list[list[float]] = page.evaluate(
            """() => document.getElementById('figure-paths')._fullData
                .filter(trace => trace.marker && trace.marker.symbol === 'star')
                .map(trace => [trace.x[0], trace.y[0]])"""
        )
        return found

    stars = browser.visit(Path(write_report(load_results(stored(prepared)))), look)
    assert [5.5695, 3.4704] in [[round(x, 4), round(y, 4)] for x, y in stars]
