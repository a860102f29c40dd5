"""Modules that hostile sweep files name."""

import sys

from torch import nn


def make(**arguments: object) -> nn.Module:
    return nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))


def leaves(**arguments: object) -> nn.Module:
    sys.exit(0)


def fails(**arguments: object) -> nn.Module:
    raise ValueError("two\nlines \x1b[31m")
