"""The report page: sections of figures, tables and text in one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.report.colors import SYMBOLS
from sweeps.report.expected_results import expected_sentences
from sweeps.report.headline import lead_sentences
from sweeps.report.notices import every_number, made_by, notices
from sweeps.report.tables import Table, report_tables, seeds_note
from sweeps.report.trial_tables import verdict_counts
from sweeps.results.aggregate import SAMPLED
from sweeps.results.expected_outcome import ExpectedOutcome
from sweeps.results.loss_surface import loss_surface
from sweeps.results.provenance import created
from sweeps.results.results import Results
from sweeps.text.formatting import formatted, is_numeric, percent

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Section:
    """A section of the page; it is omitted if it has no figure, tables or code."""

    key: str
    title: str
    note: str = ""
    figure: go.Figure | None = None
    tables: Sequence[str] = ()  # keys of tables
    folded: Sequence[str] = ()  # keys of tables that are collapsed at first
    code: dict[str, str] = field(default_factory=dict)  # collapsed text by title


@dataclass(frozen=True)
class Strip:
    """The trials of a sweep by verdict, drawn as a bar with counts; the label is empty if there is only one strip."""

    label: str
    verdicts: list[dict[str, Any]]


@dataclass(frozen=True)
class Head:
    """The text above and below the sections of a page."""

    title: str  # title of the browser window
    over: str
    name: str
    description: str
    lead: Sequence[str]
    notices: Sequence[str]
    strips: Sequence[Strip]
    foot: str


def html(results: Results, expected: Sequence[ExpectedOutcome]) -> str:
    """Return the report page as HTML."""
    sweep_id = results.files.sweep_id
    moment = created(results)
    return rendered(
        sections(results),
        report_tables(results, expected),
        Head(
            title=f"{results.config.name} · sweep {sweep_id[:8]}",
            over=f"Sweep {sweep_id}{f' · {moment}' if moment else ''}",
            name=results.config.name,
            description=results.config.description,
            lead=lead_sentences(results),
            notices=notices(results),
            strips=[strip(results)],
            foot=f"{made_by(results)}. {every_number(results)}",
        ),
        expected_sentences(expected),
    )


def strip(results: Results, label: str = "") -> Strip:
    """Return the verdict strip of a sweep."""
    counts = verdict_counts(results)
    return Strip(
        label,
        [
            {"name": name, "trials": trials, "share": percent(trials, results.stored)}
            for name, trials in zip(counts["verdict"], counts["trials"].tolist(), strict=True)
        ],
    )


def rendered(parts: Iterable[Section], tables: Iterable[Table], head: Head, expectations: Sequence[str] = ()) -> str:
    """Render sections as one HTML file that opens without a network."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = {table.key: _html_table(table) for table in tables}
    found = [
        {
            "key": section.key,
            "title": section.title,
            "note": section.note,
            "figure": Markup(_plot(section.key, section.figure)) if section.figure is not None else "",
            "tables": [shown[key] for key in section.tables if key in shown],
            "folded": [shown[key] for key in section.folded if key in shown],
            "code": section.code,
        }
        for section in parts
    ]
    found = [part for part in found if part["figure"] or part["tables"] or part["folded"] or part["code"]]
    return environment.get_template("report.html.j2").render(
        head=head,
        symbols=SYMBOLS,
        expected=shown.get("expected"),
        sentences=expectations,
        sections=found,
        plotly=Markup(get_plotlyjs()) if any(part["figure"] for part in found) else "",
    )


def sections(results: Results) -> Iterator[Section]:
    """Yield the sections of the page in order; without stored trials they have no figures."""
    from sweeps.report import figures
    from sweeps.report.figures.loss_curves import FEW
    from sweeps.report.figures.map_overlays import BOUNDARY

    has = results.stored > 0
    stability = figures.stability_map(results) if has else None
    map_note = (
        "Each cell shows the outcome of its best trial. The black line is the edge of stability that theory predicts "
        "before running."
        if stability is not None and any(trace.name == BOUNDARY for trace in stability.data)
        else "Each cell shows the outcome of its best trial."
    ) + " A trial settles if it neither diverged nor is diverging."
    yield Section("map", "Where it is stable", map_note, stability, folded=["edge", "diverged"])
    if stability is None and has:
        yield Section("shares", "Where it is stable", "", figures.verdict_shares(results), folded=["edge", "diverged"])
    speed_note = "The fewest steps until the loss is within tolerance of its minimum, over all other parameters."
    yield Section("speed", "How fast it converges", speed_note, figures.convergence_speed(results) if has else None)
    yield Section("folds", "Settings over folds", tables=["folds"])
    yield Section("best", "Best trials", tables=["best", "stages"])
    sampled = f" Curves use a reproducible uniform sample of up to {SAMPLED} trials per verdict."
    curve_note = (
        "The loss of every trial."
        if results.stored <= FEW
        else "The median loss of each verdict; the darker band holds 50 % of its trials, the lighter one 80 %."
        + (sampled if results.aggregate.verdicts.max() > SAMPLED else "")
    )
    yield Section("curves", "Loss curves", curve_note, figures.loss_curves(results) if has else None)
    surface = loss_surface(results) if has else None
    path_note = (
        "The paths of the two parameters over the contours of the training loss. A star marks where a parameter was "
        "farthest past its target; the cross marks the minimum loss. Lines join the recorded steps."
    )
    paths = figures.parameter_paths(results, surface) if surface is not None else None
    yield Section("paths", "Parameter paths", path_note, paths)
    yield Section("overshoots", "Overshoots", tables=["overshoots"], folded=["overshoots_diverging"])
    mean, log = ("mean", "the loss") if results.config.task.is_signed else ("geometric mean", "log10 loss")
    effect_note = (
        f"For each parameter by itself: the share of trials that settle and the {mean} of their final loss (the "
        f"band is one standard deviation of {log}). Below: the share of variance that the parameter explains."
    )
    effects = figures.main_effects(results) if has else None
    yield Section("effects", "Effect of each parameter", effect_note, effects, folded=["effects"])
    seeds = figures.seed_intervals(results) if has else None
    seed_note = f"{_capital(seeds_note(results))}." if seeds is not None else ""
    yield Section("seeds", "How much the seed matters", seed_note, seeds, folded=["seeds"])
    theory = figures.prediction_histogram(results) if has else None
    theory_note = "Theory predicts that settings below 1 settle and settings above 1 diverge."
    yield Section("theory", "Prediction and outcome", theory_note, theory, ["predictions"], folded=["contradictions"])
    yield Section("verdicts", "What the verdicts mean", tables=["verdicts"])
    yield Section("dropped", "Combinations not run", tables=["dropped"])
    sweep_id = results.files.sweep_id[:8]
    commands = f"sweeps run config.yaml         # the same trials, with the same ids\nsweeps report {sweep_id}\n"
    commands += f"sweeps replay {sweep_id} TRIAL   # replay one trial step by step with torch.optim.SGD"
    yield Section(
        "reproduce",
        "How to reproduce this sweep",
        "Save the config as config.yaml, install the listed versions, and run the commands.",
        tables=["settings"],
        folded=["provenance"],
        code={"config.yaml": results.files.config_yaml(), "Commands": commands},
    )


def _plot(key: str, figure: go.Figure) -> str:
    from sweeps.report.theme import LEAST_WIDTH, PLOT_CONFIG

    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{key}",
        config=PLOT_CONFIG,
        default_height=f"{figure.layout.height}px",
    )
    # On a phone the page scrolls a figure whose labels or legend need more room.
    least = (figure.layout.meta or {}).get(LEAST_WIDTH, 0)
    return f'<div style="min-width: {least}px">{drawn}</div>' if least else str(drawn)


def _html_table(table: Table) -> dict[str, Any]:
    shown = formatted(table.frame)
    kinds = ["number" if is_numeric(table.frame[name]) else str(name) for name in table.frame]
    columns = [{"heading": name, "kind": kind} for name, kind in zip(shown, kinds, strict=True)]
    rows = list(shown.itertuples(index=False, name=None))
    return {"key": table.key, "title": table.title, "note": _capital(table.note), "columns": columns, "rows": rows}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
