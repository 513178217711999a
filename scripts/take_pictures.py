"""Take the pictures of the web page from a real conversation with the embedded patient.

Run as ``python scripts/take_pictures.py [FOLDER]``; the folder is docs/pictures.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
TURNS = (
    "Where does Mara Voss live?",
    "What do you know about Mara Voss?",
    "Please forget where Mara Voss lives.",
    "Where does Mara Voss live?",
)
WIDTHS = {"wide": (1280, 860), "narrow": (360, 740)}
PATIENCE = 180_000


@contextmanager
def server(home: Path) -> Iterator[str]:
    """A server with the embedded patient in a thread; gives its address."""
    import uvicorn

    from repair.patient import Patient
    from repair.server.app import create_app
    from repair.server.run import listen
    from repair.server.service import open_service

    service = open_service(Patient.load(), home)
    bound = listen("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(create_app(service), log_level="warning"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(timeout=30)
        service.close()


def browser_path() -> str | None:
    """A browser of the system; None leaves it to Playwright's own."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path), None)


def say(page: Page, text: str) -> None:
    """Send one turn and wait until the page takes another."""
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")
    page.locator("#send:not([disabled])").wait_for(timeout=PATIENCE)


def take(page: Page, folder: Path, name: str) -> None:
    """The page as it stands, wide and narrow, light and dark."""
    for scheme in ("light", "dark"):
        chosen: Any = scheme
        page.emulate_media(color_scheme=chosen, reduced_motion="reduce")
        for width, (w, h) in WIDTHS.items():
            page.set_viewport_size({"width": w, "height": h})
            page.wait_for_timeout(250)
            page.screenshot(path=folder / f"{name}-{width}-{scheme}.png")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as home,
        server(Path(home)) as url,
        sync_playwright() as play,
    ):
        options = ["--no-sandbox"]
        browser = play.chromium.launch(executable_path=browser_path(), args=options)
        page = browser.new_page()
        page.goto(url)
        page.get_by_role("button", name=TURNS[0]).wait_for()
        for turn in TURNS[:2]:
            say(page, turn)
        take(page, folder, "page-knowledge")
        for turn in TURNS[2:]:
            say(page, turn)
        page.locator("article[data-edit]").evaluate("e => e.scrollIntoView({block: 'center'})")
        take(page, folder, "page-edit")
        page.set_viewport_size({"width": 360, "height": 740})
        page.locator("#toggle").click()
        page.screenshot(path=folder / "page-timeline-narrow-dark.png")
        browser.close()


if __name__ == "__main__":
    main()
