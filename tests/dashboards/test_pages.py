"""The dashboard in a real browser: silent and alone, the map as the store has it, clicks that lead to trials, live."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd
import pytest

from sgdcore.verdict import VERDICTS
from sweeps.execution.worker import run_shard
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import ShardResult
from sweeps.report.files import write_report
from sweeps.results.results import load_results
from sweeps.store.store import Store, SweepFiles
from tests.dashboards.conftest import PARAMETERS
from tests.support.browser import Browser
from tests.support.serving import served_dashboard
from tests.support.stores import computed_into

HOSTILE = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'> <b>bold</b> {{ 7 * 7 }} %{x}"
MAP = "document.querySelector('#map .js-plotly-plot')"
HISTORY = "document.querySelector('#history-figure .js-plotly-plot')"
SHOWN = f"""() => {MAP}._fullData.map((trace, i) => [trace, {MAP}.calcdata[i][0]])
    .filter(([trace, cells]) => trace.visible === true && trace.type === 'heatmap' && trace.opacity === 1)
    .map(([trace, cells]) => Array.from(cells.z, row => Array.from(row)))"""
POINT = """([selector, axis, x, y]) => {
    const plot = document.querySelector(`${selector} .js-plotly-plot`), layout = plot._fullLayout;
    const box = plot.getBoundingClientRect();
    scrollTo({top: box.top + scrollY - 80, behavior: 'instant'});
    const now = plot.getBoundingClientRect(), [across, up] = [layout['xaxis' + axis], layout['yaxis' + axis]];
    return [now.left + across._offset + across.d2p(x), now.top + up._offset + up.d2p(y)];
}"""

Stored = Callable[[PreparedSweep], SweepFiles]


def drawn(page: Any) -> None:
    page.wait_for_function(f"() => {MAP} && {MAP}._fullLayout && {MAP}.calcdata && {MAP}.calcdata.length > 5")


def test_silent_and_alone_in_light_and_dark_wide_and_narrow(
    line: PreparedSweep, stored: Stored, browser: Browser
) -> None:
    files = stored(line)
    write_report(load_results(files))

    def look(page: Any) -> list[Any]:
        page.wait_for_selector("table.sweeps .stable .strip")
        found = [page.evaluate("getComputedStyle(document.body).backgroundColor")]
        found.append(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))
        page.click("a.name")
        drawn(page)
        page.wait_for_selector(".side table")
        found.append(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))
        found.append(page.evaluate("Array.from(document.scripts, s => s.src).filter(s => s.includes('plotly'))"))
        return found

    with served_dashboard(Store.of(files)) as address:
        wide, narrow = browser.visit(address, look), browser.visit(address, look, dark=True, width=400)
    assert wide[0] != narrow[0]
    assert wide[1:3] == narrow[1:3] == [True, True]
    assert any("/_dash-component-suites/plotly/" in source for source in wide[3])


def test_the_map_has_the_cells_of_the_store(line: PreparedSweep, stored: Stored, browser: Browser) -> None:
    files = stored(line)
    trials = pd.concat([pd.read_parquet(path) for path in sorted(files.shards.folder.glob("*.parquet"))])

    def look(page: Any) -> list[Any]:
        drawn(page)
        cells: list[Any] = page.evaluate(SHOWN)
        return cells

    with served_dashboard(Store.of(files)) as address:
        panels = browser.visit(f"{address}/sweeps/{files.sweep_id}", look)
    order = {verdict: i for i, verdict in enumerate(VERDICTS)}
    assert len(panels) == 2
    for shown, ahead in zip(panels, (False, True), strict=True):
        some = trials[trials["nesterov"] == ahead].assign(rank=lambda frame: frame["verdict"].map(order))
        # Where both trials of a cell have the same verdict there is no choice to be made.
        same = some.groupby(["momentum", "lr"])["rank"].agg(["min", "max"])
        certain = (same["min"] == same["max"]).unstack().reindex([0, 0.5, 0.9]).fillna(False).to_numpy(dtype=bool)
        oracle = same["min"].unstack().reindex([0, 0.5, 0.9]).to_numpy(dtype=float)
        assert certain.sum() > 8
        np.testing.assert_array_equal(np.array(shown, dtype=float)[certain], oracle[certain])


def test_a_click_leads_to_the_trial_its_curve_path_and_replay(
    line: PreparedSweep, stored: Stored, browser: Browser
) -> None:
    files = stored(line)
    trials = pd.concat([pd.read_parquet(path) for path in sorted(files.shards.folder.glob("*.parquet"))])
    chosen = trials.query("nesterov and momentum == 0.5").sort_values("lr")["lr"].unique()[4]
    cell = trials[(trials["lr"] == chosen) & (trials["momentum"] == 0.5) & trials["nesterov"]]

    def look(page: Any) -> dict[str, Any]:
        drawn(page)
        x, y = page.evaluate(POINT, ["#map", "2", float(chosen), 0.5])
        page.mouse.move(x, y)
        page.mouse.move(x + 1, y)
        page.wait_for_selector("#map .hoverlayer .hovertext")
        page.mouse.click(x + 1, y)
        page.wait_for_selector("#trial-path .nsewdrag")
        found = {"url": page.url, "trials": page.locator(".side tbody a.name").all_text_contents()}
        other = page.locator(".side tbody tr:not(.marked) a.name").first
        found["other"] = other.text_content()
        other.click()
        page.wait_for_function(f"() => document.querySelector('#trial h2').textContent === 'Trial {found['other']}'")
        curve = "document.querySelector('#trial-curve .js-plotly-plot')"
        page.wait_for_function(f"() => {curve} && {curve}.calcdata")
        found["curve"] = page.evaluate(f"{curve}._fullData[0].customdata.map(point => Array.from(point))")
        page.click("#replay-button")
        found["replay"] = page.locator("#replay .yes").text_content(timeout=90_000)
        page.reload()
        page.wait_for_selector("#trial-curve .js-plotly-plot")
        found["again"] = page.locator("#trial h2").text_content()
        return found

    with served_dashboard(Store.of(files)) as address:
        found = browser.visit(f"{address}/sweeps/{files.sweep_id}", look)
    asked = dict(parse_qsl(urlsplit(found["url"]).query))
    best = cell.sort_values(["final_loss", "trial"])["trial"].tolist()
    assert asked == {"lr": repr(float(chosen)), "momentum": "0.5", "nesterov": "true", "trial": str(best[0])}
    assert found["trials"] == [str(number) for number in best]
    stored_curve = cell[cell["trial"] == int(found["other"])]["loss"].iloc[0]
    np.testing.assert_allclose([loss for _, loss in found["curve"]], stored_curve, rtol=1e-6)
    assert "bit for bit equal to torch.optim.SGD; the stored values match" in found["replay"]
    assert found["again"] == f"Trial {found['other']}"


def test_a_running_sweep_updates_by_itself(line: PreparedSweep, store: Store, browser: Browser) -> None:
    manifest = {"sweep_id": "abcd1234", "name": "live", "created": "2026-01-01T00:00:00+00:00", **line.plan.summary()}
    files = store.create("abcd1234", line.config.to_yaml(), manifest)
    shards = list(line.plan.shards())

    def add(index: int) -> None:
        result = run_shard(line, shards[index])
        assert isinstance(result, ShardResult)
        files.shards.write(result)

    def look(page: Any) -> list[str]:
        page.wait_for_selector(".pill-running")
        page.evaluate("window.same = true")
        told = [page.locator(".lead").first.text_content()]
        for index in range(2):
            add(index)
            page.wait_for_function(
                f"() => document.body.innerText.includes('{30 * (index + 1)} of 120 trials are stored')"
            )
        drawn(page)
        told.append(page.locator(".progress small").first.text_content())
        told.append(str(page.evaluate("window.same")))
        return told

    def listed(page: Any) -> list[str]:
        page.wait_for_selector(".pill-running")
        told = [page.locator(".progress small").first.text_content()]
        add(2)
        page.wait_for_function("() => document.body.innerText.includes('90 of 120 computed')")
        page.wait_for_selector(".stable .strip")
        return told

    with served_dashboard(Store.of(files)) as address, files.lease():
        told = browser.visit(f"{address}/sweeps/abcd1234", look)
        assert told == ["None of the 120 trials is stored yet.", "60 of 120 computed", "True"]
        assert browser.visit(address, listed) == ["60 of 120 computed"]


def test_html_in_names_is_shown_and_not_run(
    make_prepared: Callable[..., PreparedSweep], stored: Stored, browser: Browser
) -> None:
    files = stored(make_prepared(name=HOSTILE, description=HOSTILE))
    manifest = files.manifest() | {"tags": {HOSTILE: HOSTILE}}
    files.plan_path.write_text(json.dumps(manifest), encoding="utf-8")
    write_report(load_results(files))

    def look(page: Any) -> list[Any]:
        found = [page.locator("a.name").inner_text(), page.locator(".tag").inner_text()]
        page.click("a.name")
        page.wait_for_selector(".description")  # the sweep's page; the list has a heading too
        found += [page.locator(css).inner_text() for css in ("h1", ".description", ".crumbs .tag")]
        with page.expect_popup() as opened:
            page.click("text=Report")
        popup = opened.value
        popup.wait_for_selector("h1")
        found += [popup.locator("h1").inner_text(), popup.evaluate("window.ran"), popup.evaluate("origin")]
        return [*found, page.evaluate("window.ran")]

    with served_dashboard(Store.of(files)) as address:
        name, tag, heading, description, crumb, inside, ran, origin, outside = browser.visit(address, look)
    assert [name, heading, description, inside] == [HOSTILE] * 4
    assert tag == crumb == f"{HOSTILE} {HOSTILE}"
    assert ran is outside is None
    assert origin == "null"  # the report's script is a stranger to the dashboard


def test_sorted_filtered_and_picked_in_the_address(
    make_prepared: Callable[..., PreparedSweep], store: Store, browser: Browser
) -> None:
    for i, name in enumerate(("beta", "alpha", "gamma")):
        prepared = make_prepared(name=name)
        manifest = {"sweep_id": f"{i:08x}", "name": name, "created": f"2026-01-0{i + 1}T00:00:00+00:00"}
        store.create(f"{i:08x}", prepared.config.to_yaml(), manifest | prepared.plan.summary())

    def look(page: Any) -> list[Any]:
        names = page.locator("a.name")
        names.first.wait_for()
        found = [names.all_text_contents()]
        page.click("th >> text=Sweep")
        page.wait_for_function("() => document.querySelector('a.name').textContent === 'alpha'")
        found.append(names.all_text_contents())
        for box in (0, 2):
            page.locator(".box").nth(box).click()
            page.wait_for_selector(f".picked >> text={1 + box // 2} selected")
        found.append(page.locator(".picked a").first.get_attribute("href"))
        page.fill("#filter", "mm")
        page.wait_for_function("() => document.querySelectorAll('a.name').length === 1")
        found.append([names.all_text_contents(), dict(parse_qsl(urlsplit(page.url).query))])
        page.reload()
        names.first.wait_for()
        return [*found, page.input_value("#filter"), names.all_text_contents()]

    with served_dashboard(store) as address:
        newest, sorted_, compare, filtered, text, again = browser.visit(address, look)
    assert newest == ["gamma", "alpha", "beta"]
    assert sorted_ == ["alpha", "beta", "gamma"]
    assert compare == "/compare?ids=00000001,00000002"
    assert filtered == [["gamma"], {"q": "mm", "sort": "name", "pick": "00000001,00000002"}]
    assert (text, again) == ("mm", ["gamma"])


@pytest.fixture
def nights(make_prepared: Callable[..., PreparedSweep], store: Store) -> dict[str, pd.DataFrame]:
    """The trials of three sweeps of one name: the second is shorter than the first, the third is as the first."""
    trials = {}
    for day, (sweep_id, epochs) in enumerate((("aaaa1111", 60), ("bbbb2222", 5), ("cccc3333", 60)), 1):
        prepared = make_prepared(name="night", parameters=PARAMETERS, training={"epochs": epochs})
        files = computed_into(store, sweep_id, prepared, f"2026-01-0{day}T02:00:00+00:00")
        trials[sweep_id] = pd.concat([shard.to_pandas() for shard in files.shards.read_many(files.shards.done())])
    return trials


def stable_share(trials: pd.DataFrame) -> float:
    return float(trials["verdict"].isin(["converged", "converging", "stalled"]).mean())


def test_history_is_that_of_the_stored_sweeps_and_leads_to_them(
    nights: dict[str, pd.DataFrame], store: Store, browser: Browser
) -> None:
    best = {sweep_id: trials["final_loss"].min() for sweep_id, trials in nights.items()}

    def look(page: Any) -> dict[str, Any]:
        # What is not read within the page's patience follows a look later: the lines grow point by point.
        page.wait_for_function(f"() => {HISTORY}?.calcdata?.[1]?.length === {len(nights)}")
        found = {"lines": page.evaluate(f"{HISTORY}._fullData.map(line => [line.customdata, Array.from(line.y)])")}
        found["table"] = page.locator("#history table code").all_text_contents()
        x, y = page.evaluate(POINT, ["#history-figure", "", "2026-01-02 02:00:00", float(best["bbbb2222"])])
        page.mouse.move(x, y)
        page.wait_for_selector("#history-figure .hoverlayer .hovertext")
        page.mouse.click(x, y)
        page.wait_for_selector("#map .js-plotly-plot")
        found["path"] = urlsplit(page.url).path
        return found

    with served_dashboard(store) as address:
        found = browser.visit(f"{address}/history", look)
    (ids, losses), (same_ids, stable) = found["lines"]
    assert ids == same_ids == list(nights)
    np.testing.assert_allclose(losses, list(best.values()))
    np.testing.assert_allclose(stable, [stable_share(trials) for trials in nights.values()])
    assert found["table"] == list(reversed(nights))
    assert found["path"] == "/sweeps/bbbb2222"


def test_sweeps_are_compared_with_the_first_of_them(
    nights: dict[str, pd.DataFrame], store: Store, browser: Browser
) -> None:
    first, second = nights["aaaa1111"], nights["bbbb2222"]

    def look(page: Any) -> dict[str, Any]:
        page.wait_for_selector("#compare-maps .js-plotly-plot")
        found: dict[str, Any] = {"letters": page.locator(".letter code").all_text_contents()}
        found["told"] = page.locator("#compare .lead").all_text_contents()
        plots = "Array.from(document.querySelectorAll('#compare .js-plotly-plot'), plot => plot.parentElement.id)"
        found["figures"] = page.evaluate(plots)
        page.locator(".letter").nth(1).get_by_text("Compare with this").click()
        page.wait_for_function("() => document.querySelector('.letter code').textContent === 'bbbb2222'")
        found["turned"] = page.locator(".letter code").all_text_contents()
        page.locator(".letter").nth(1).get_by_text("Remove").click()
        found["asked"] = page.locator("#compare .nothing").inner_text()
        return found

    with served_dashboard(store) as address:
        found = browser.visit(f"{address}/compare?ids=aaaa1111,bbbb2222", look)
    assert found["letters"] == ["aaaa1111", "bbbb2222"]
    [told] = found["told"]
    assert f"The best final loss of B is {second['final_loss'].min():.4g}".rstrip("0") in told
    assert f"{stable_share(second):.0%}".replace("%", " %") in told
    assert {"compare-shares", "compare-maps", "compare-curves"} <= set(found["figures"])
    assert found["turned"] == ["bbbb2222", "aaaa1111"]
    assert "Select at least two" in found["asked"]
    assert stable_share(first) != stable_share(second)


def test_a_sweep_that_is_not_there(store: Store, browser: Browser) -> None:
    with served_dashboard(store) as address:
        told = browser.visit(f"{address}/sweeps/abcd", lambda page: page.locator(".nothing").inner_text())
        assert "no such sweep" in told
        empty = browser.visit(address, lambda page: page.locator(".nothing").inner_text())
    assert "No sweeps yet" in empty


@pytest.mark.parametrize("damage", ["plan", "shard"])
def test_damaged_sweeps_are_told_of(line: PreparedSweep, stored: Stored, browser: Browser, damage: str) -> None:
    files = stored(line)
    broken = files.plan_path if damage == "plan" else next(files.shards.folder.iterdir())
    broken.write_text("{", encoding="utf-8")

    def look(page: Any) -> str:
        page.wait_for_selector(".notice, .pill-damaged")
        return str(page.locator("#page").inner_text())

    with served_dashboard(Store.of(files)) as address:
        told = browser.visit(f"{address}/sweeps/{files.sweep_id}", look)
    assert "cannot be read" in told
