"""Context: what every page is made from."""

from __future__ import annotations

from dataclasses import dataclass

from dashboards.store_cache import Catalogue
from dashboards.urls import Mlflow


@dataclass(frozen=True)
class Context:
    """The store, as it is known, and where MLflow is."""

    catalogue: Catalogue
    mlflow: Mlflow
