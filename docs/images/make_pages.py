"""Take the pictures of docs/review.md from a running demo station, in the system's Chromium.

Run: cmdiad-line demo BUNDLE --state STATE --no-browser
then: python docs/images/make_pages.py STATE docs/images
"""

from __future__ import annotations

import io
import json
import secrets
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from cmdiad_line.accounts.store import FILE_NAME, AccountStore

SIZE = {"width": 1100, "height": 720}
COLOURS = 200
LIMIT_MS = 120_000


def main(state: Path, target: Path) -> None:
    """Sign in as a new engineer, wait for a part that is NG, and take both pictures."""
    url = json.loads((state / "run" / "web.json").read_text(encoding="utf-8"))["url"]
    name, password = "engineer-" + secrets.token_hex(4), secrets.token_urlsafe()
    AccountStore(state / FILE_NAME).add(name, "engineer", password, author="command line")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(LIMIT_MS)
        page.goto(f"{url}login")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector("body[data-screen=ng] #overlay:visible")
        save(page, target / "operator-page.png")
        page.goto(f"{url}review")
        page.wait_for_load_state("networkidle")
        page.keyboard.press("d")
        page.keyboard.type("scratch on a tooth")
        save(page, target / "review-page.png")
        browser.close()


def save(page: Page, path: Path) -> None:
    """Write a picture of the page with few colours, so that the file stays small."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
