"""Context: what every page is made from."""

from __future__ import annotations

from dataclasses import dataclass

from dashboards.catalogue import Catalogue
from dashboards.links import Mlflow


@dataclass(frozen=True)
class Context:
    """The store, as it is known, and where MLflow is."""

    catalogue: Catalogue
    mlflow: Mlflow
