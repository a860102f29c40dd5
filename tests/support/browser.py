"""A real browser that checks the pages it opens."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")
HOSTILE = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'> </script><b>bold</b> {{ 7 * 7 }} %{x}"


class Browser:
    """A real Chromium, in a separate thread because Playwright leaves a running event loop in its thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._start).result(timeout=120)

    def _start(self) -> None:
        from playwright.sync_api import sync_playwright

        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        assert path, "no Chromium on the PATH: 'make chromium' installs it"
        self._playwright = sync_playwright().start()
        flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
        arguments = [*flags.split(), "--disable-sync", "--no-first-run"]
        self._chromium = self._playwright.chromium.launch(executable_path=path, args=arguments)

    def stop(self) -> None:
        self._thread.submit(self._chromium.close).result(timeout=60)
        self._thread.submit(self._playwright.stop).result(timeout=60)
        self._thread.shutdown()

    def visit(
        self, place: Path | str, look: Callable[[Any], T], dark: bool = False, width: int = 1280, allowed: str = ""
    ) -> T:
        """Open a file or an address, look at the page, and check that no error occurred and nothing else was requested.

        A page at an address can request more from the same origin. ``allowed`` is a pattern of expected console
        messages.
        """
        address = place if isinstance(place, str) else place.as_uri()
        home = f"{urlsplit(address).scheme}://{urlsplit(address).netloc}/" if isinstance(place, str) else address

        def visit() -> tuple[T, list[str]]:
            scheme = "dark" if dark else "light"
            context = self._chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
            context.set_default_timeout(120_000)  # generous, because the machine can be busy
            page, problems = context.new_page(), []
            page.on("console", lambda message: problems.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: problems.append(f"error: {error}"))
            page.on("request", lambda request: asked.append(request.url))
            asked: list[str] = []
            page.goto(address)
            found = look(page)
            context.close()
            outside = [url for url in asked if not url.startswith((home, "data:", "blob:"))]
            return found, [*problems, *(f"request: {url}" for url in outside)]

        found, problems = self._thread.submit(visit).result(timeout=400)
        assert [problem for problem in problems if not (allowed and re.search(allowed, problem))] == []
        return found

    def see(self, look: Callable[[Any], T]) -> T:
        """Call ``look`` on a new page, of any server, and return its result."""

        def see() -> T:
            context = self._chromium.new_context(viewport={"width": 1600, "height": 1200})
            context.set_default_timeout(90_000)
            try:
                return look(context.new_page())
            finally:
                context.close()

        return self._thread.submit(see).result(timeout=400)


def drawn(page: Any) -> None:
    page.wait_for_function(
        "() => [...document.querySelectorAll('.plotly-graph-div')].every(plot => plot._fullLayout && plot.calcdata)"
    )
