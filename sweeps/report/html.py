"""The report page: sections of figures, tables and words, in one HTML file that stands alone."""

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
    """A part of the page; one without a figure, tables and code is left out."""

    key: str
    title: str
    note: str = ""
    figure: go.Figure | None = None
    tables: Sequence[str] = ()  # keys of tables
    folded: Sequence[str] = ()  # the same, shown when they are opened
    code: dict[str, str] = field(default_factory=dict)  # folded text by its title


@dataclass(frozen=True)
class Strip:
    """Trials by verdict, as a bar and in numbers; the label is empty where there is only one."""

    label: str
    verdicts: list[dict[str, Any]]


@dataclass(frozen=True)
class Head:
    """What stands above and below a page's sections."""

    title: str  # of the browser's window
    over: str
    name: str
    description: str
    lead: Sequence[str]
    notices: Sequence[str]
    strips: Sequence[Strip]
    foot: str


def html(results: Results, expected: Sequence[ExpectedOutcome]) -> str:
    """The whole page."""
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
    """A sweep's verdicts."""
    counts = verdict_counts(results)
    return Strip(
        label,
        [
            {"name": name, "trials": trials, "share": percent(trials, results.stored)}
            for name, trials in zip(counts["verdict"], counts["trials"].tolist(), strict=True)
        ],
    )


def rendered(parts: Iterable[Section], tables: Iterable[Table], head: Head, expectations: Sequence[str] = ()) -> str:
    """A page of these sections, in one HTML file that opens without a network."""
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
    """The page's parts, in order; those of results without trials have no figures."""
    from sweeps.report import figures
    from sweeps.report.figures.loss_curves import FEW

    has = results.stored > 0
    stability = figures.stability_map(results) if has else None
    map_note = (
        "What became of each setting: a cell shows the best of its trials. The black line is where theory, before "
        "anything is run, puts the edge."
        if results.aggregate.predictions.counts.any()
        else "What became of each setting: a cell shows the best of its trials."
    )
    yield Section("map", "Where it is stable", map_note, stability, folded=["edge", "diverged"])
    if stability is None and has:
        yield Section("shares", "Where it is stable", "", figures.verdict_shares(results), folded=["edge", "diverged"])
    speed_note = "The fewest steps until the loss is within tolerance of the least possible, over all other parameters."
    yield Section("speed", "How fast it converges", speed_note, figures.convergence_speed(results) if has else None)
    yield Section("best", "The best trials", tables=["best"])
    sampled = f" Of each verdict a fair sample of up to {SAMPLED} trials is drawn, the same ones every time."
    curve_note = (
        "Every trial's loss."
        if results.stored <= FEW
        else "The median of each verdict; half of its trials lie in the darker band, four fifths in the lighter one."
        + (sampled if results.aggregate.verdicts.max() > SAMPLED else "")
    )
    yield Section("curves", "Loss curves", curve_note, figures.loss_curves(results) if has else None)
    surface = loss_surface(results) if has else None
    path_note = (
        "The two parameters on their way over the contours of the training loss. A star marks where a parameter went "
        "farthest past its target, the cross the least loss. Lines join the recorded steps."
    )
    paths = figures.parameter_paths(results, surface) if surface is not None else None
    yield Section("paths", "Paths over the loss", path_note, paths)
    yield Section("overshoots", "Overshoots", tables=["overshoots"], folded=["overshoots_diverging"])
    effect_note = (
        "Each parameter by itself: the share of its trials that settle, and the mean final loss of those (geometric; "
        "the band is a standard deviation of log10 loss). Below, the share of the variance that it explains."
    )
    effects = figures.main_effects(results) if has else None
    yield Section("effects", "What each parameter does", effect_note, effects, folded=["effects"])
    seeds = figures.seed_intervals(results) if has else None
    seed_note = f"{_capital(seeds_note(results))}." if seeds is not None else ""
    yield Section("seeds", "How much the seed matters", seed_note, seeds, folded=["seeds"])
    theory = figures.prediction_histogram(results) if has else None
    theory_note = "Left of 1 theory lets a setting settle, right of 1 it does not."
    yield Section(
        "theory", "Prediction against outcome", theory_note, theory, ["predictions"], folded=["contradictions"]
    )
    yield Section("dropped", "What was not run", tables=["dropped"])
    sweep_id = results.files.sweep_id[:8]
    commands = f"sweeps run config.yaml         # the same trials, with the same ids\nsweeps report {sweep_id}\n"
    commands += f"sweeps replay {sweep_id} TRIAL   # one trial step by step beside torch.optim.SGD"
    yield Section(
        "reproduce",
        "How to reproduce it",
        "Save the config as config.yaml, install these versions, and run it.",
        tables=["settings"],
        folded=["provenance"],
        code={"config.yaml": results.files.config_yaml(), "Commands": commands},
    )


def _plot(key: str, figure: go.Figure) -> str:
    from sweeps.report.theme import PLOT_CONFIG

    return str(
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"figure-{key}",
            config=PLOT_CONFIG,
            default_height=f"{figure.layout.height}px",
        )
    )


def _html_table(table: Table) -> dict[str, Any]:
    shown = formatted(table.frame)
    kinds = ["number" if is_numeric(table.frame[name]) else str(name) for name in table.frame]
    columns = [{"heading": name, "kind": kind} for name, kind in zip(shown, kinds, strict=True)]
    rows = list(shown.itertuples(index=False, name=None))
    return {"key": table.key, "title": table.title, "note": _capital(table.note), "columns": columns, "rows": rows}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
