"""Palette: the verdicts' colours and symbols, on pages and on terminals."""

# Okabe and Ito's palette, which colour-blind readers can tell apart
COLOURS = {
    "converged": "#009E73",
    "converging": "#56B4E9",
    "stalled": "#999999",
    "diverging": "#E69F00",
    "diverged": "#D55E00",
}
SYMBOLS = {"converged": "●", "converging": "◗", "stalled": "–", "diverging": "▲", "diverged": "×"}
