"""The colours and symbols of verdicts, on pages and in terminals."""

# The palette of Okabe and Ito, distinguishable with colour blindness
COLOURS = {
    "converged": "#009E73",
    "converging": "#56B4E9",
    "stalled": "#999999",
    "diverging": "#E69F00",
    "diverged": "#D55E00",
}
SYMBOLS = {"converged": "●", "converging": "◗", "stalled": "–", "diverging": "▲", "diverged": "×"}
