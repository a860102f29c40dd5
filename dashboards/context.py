"""Context: the objects that every page is built from."""

from __future__ import annotations

from dataclasses import dataclass

from dashboards.store_cache import Catalogue
from dashboards.urls import Mlflow


@dataclass(frozen=True)
class Context:
    """The store's catalogue and the address of MLflow."""

    catalogue: Catalogue
    mlflow: Mlflow
