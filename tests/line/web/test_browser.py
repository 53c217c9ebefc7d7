"""The pages in a real browser (the system's Chromium): live verdicts, the red screen, review by keyboard."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from cmdiad_line.accounts.store import AccountStore
from cmdiad_line.web import desk
from cmdiad_line.web.desk import SILENCE_S
from patience import LIMIT_S, wait_until
from web_doubles import PASSWORD, png
from web_running import RunningWeb, running_web

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytest.importorskip("playwright", reason="drives the browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the Debian package chromium")
LIMIT_MS = 1000 * LIMIT_S


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=LIMIT_MS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(LIMIT_MS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda entry: problems.append(entry.text) if "Content Security" in entry.text else None)
    yield page
    context.close()
    assert not problems


@pytest.fixture
def web(tmp_path: Path) -> Iterator[RunningWeb]:
    with running_web(tmp_path) as web:
        store = AccountStore(web.state / "accounts.sqlite")
        store.add("ada", "engineer", PASSWORD, author="test")
        yield web


def sign_in(page: Page, web: RunningWeb, path: str = "/") -> None:
    page.goto(f"{web.url}{path}")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{web.url}{path}")


def wait_for_screen(page: Page, kind: str) -> None:
    page.wait_for_selector(f"body[data-screen={kind}]")


def is_red(page: Page) -> bool:
    """Return True if the whole window is red, except the text."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    width, height = picture.size
    return all(
        picture.getpixel((x, y)) == (192, 0, 24)
        for x in (5, width // 2, width - 5)
        for y in (5, height // 5, height - 5)
    )


def wait_for_text(page: Page, *parts: str) -> None:
    """Wait until a person sees a text. The red screen covers it while the server of the test has no time for it."""
    wait_until(lambda: all(part in visible_text(page) for part in parts), " and ".join(parts))


def visible_text(page: Page) -> str:
    """Return what a person sees: nothing of what the red screen covers."""
    lost = page.evaluate("getComputedStyle(document.getElementById('lost')).opacity") == "1"
    return page.inner_text("#lost" if lost else "#verdict")


def test_verdicts_appear_live(page: Page, web: RunningWeb) -> None:
    sign_in(page, web)
    wait_for_screen(page, "waiting")
    web.publish(1, picture=png())
    wait_for_screen(page, "ok")
    wait_until(lambda: visible_text(page).startswith("OK"), "OK")
    page.wait_for_selector("#overlay:visible")
    web.publish(2, "NG", "score")
    wait_for_screen(page, "ng")
    wait_for_text(page, "NG", "Defect")
    assert page.locator("#parts tr").count() == 2
    assert page.inner_text("#count-rate") == "50.0 %"
    web.state_is(in_work=1)
    wait_for_screen(page, "working")
    assert not page.locator("#overlay").is_visible()
    assert "NG" not in visible_text(page)


def test_a_late_part_appears_in_a_full_list(page: Page, web: RunningWeb) -> None:
    for number in [*range(1, 50), 51, 52]:
        web.publish(number)
    sign_in(page, web)
    page.wait_for_selector("#parts >> text=P52")
    web.publish(50, "NG", "deadline")
    page.wait_for_selector("#parts >> text=P50")
    assert page.locator("#parts tr").count() == 50
    assert page.locator("#parts .ng").count() == 1


def test_the_whole_screen_is_red_when_not_ready(page: Page, web: RunningWeb) -> None:
    sign_in(page, web)
    web.publish(1)
    wait_for_screen(page, "ok")
    web.state_is(phase="not-ready", reason="camera-gone", message="The camera is disconnected.")
    wait_for_screen(page, "not-ready")
    assert is_red(page)
    for element in ("body", "header", "#verdict", "#numbers", "#last"):
        colour = page.evaluate("name => getComputedStyle(document.querySelector(name)).backgroundColor", element)
        assert colour == "rgb(192, 0, 24)", element
    wait_for_text(page, "disconnected")
    assert "OK" not in visible_text(page)


def test_an_ok_disappears_when_the_station_dies(page: Page, web: RunningWeb) -> None:
    sign_in(page, web)
    web.publish(1)
    wait_for_screen(page, "ok")
    web.stop_supervising()
    web.link.close()
    wait_for_screen(page, "lost")
    assert visible_text(page).startswith("No connection")


def test_an_ok_disappears_when_the_supervisor_is_silent(
    page: Page, web: RunningWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(page, web)
    web.publish(1)
    wait_for_screen(page, "ok")
    monkeypatch.setattr(desk, "SILENCE_S", SILENCE_S)
    web.lives = False
    wait_for_screen(page, "not-ready")
    wait_for_text(page, "does not answer")
    web.lives = True
    wait_for_screen(page, "ok")


def test_an_ok_disappears_when_the_script_of_the_page_has_stopped(page: Page, web: RunningWeb) -> None:
    """The style sheet alone covers the verdict, for whatever reason the script stopped."""
    sign_in(page, web)
    web.publish(1)
    wait_for_screen(page, "ok")
    page.context.new_cdp_session(page).send("Emulation.setScriptExecutionDisabled", {"value": True})
    wait_until(lambda: is_red(page), "the red screen")


def test_an_ok_disappears_when_the_server_hangs(page: Page, web: RunningWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stays open, but nothing arrives any more."""
    from cmdiad_line.web import live

    sign_in(page, web)
    web.publish(1)
    wait_for_screen(page, "ok")
    released = threading.Event()

    def hang(*_: object) -> None:
        released.wait()
        raise RuntimeError("released")

    monkeypatch.setattr(live, "make_screen", hang)
    try:
        wait_until(lambda: is_red(page), "the red screen")
    finally:
        released.set()


def test_review_by_keyboard(page: Page, web: RunningWeb) -> None:
    for number in (1, 2, 3):
        web.publish(number, "NG", "score")
        web.records.keep_picture(number, png(60 * number))
    sign_in(page, web, "/review")
    assert "3 to review" in page.inner_text("header")
    page.keyboard.press("d")
    page.keyboard.type("scratch at the edge")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=P2")
    page.wait_for_load_state()  # The script takes keys from then on.
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("text=P1")
    page.wait_for_load_state()
    page.keyboard.press("g")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=No more parts")
    wait_until(lambda: len(web.commands()) == 3, "the judgements")
    judged = [(entry.user, entry.arguments) for entry in web.commands() if entry.name == "judge"]
    assert judged == [
        ("ada", {"acquisition_id": 3, "judgement": "defect", "note": "scratch at the edge"}),
        ("ada", {"acquisition_id": 1, "judgement": "good", "note": ""}),
    ]


def test_a_blind_second_look_hides_the_first(page: Page, web: RunningWeb) -> None:
    web.publish(1, "NG", "score")
    sign_in(page, web)
    page.goto(f"{web.url}/review?blind=true")
    assert "exactly one other person" in page.inner_text("main")
    web.records.judge(1, "ben", "good")
    page.goto(f"{web.url}/review")
    assert "Nothing to review" in page.inner_text("main")
    page.get_by_role("link", name="Blind second look").click()
    page.wait_for_selector("text=P1")
    shown = page.inner_text("main")
    assert "NG" not in shown
    assert "Defect" not in shown
    assert "kind=overlay" not in page.content()


def test_a_person_who_is_signed_out_sees_no_verdict(page: Page, web: RunningWeb) -> None:
    sign_in(page, web)
    web.publish(1)
    wait_for_screen(page, "ok")
    AccountStore(web.state / "accounts.sqlite").set_role("ada", "operator", author="test")
    wait_for_text(page, "signed out")


def test_accounts_fit_on_a_phone(page: Page, web: RunningWeb) -> None:
    store = AccountStore(web.state / "accounts.sqlite")
    store.set_role("ada", "admin", author="test")
    store.add("somebody-with-a-name-of-forty-characters", "operator", PASSWORD, author="test")
    page.set_viewport_size({"width": 400, "height": 800})
    sign_in(page, web, "/accounts")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    edges = page.evaluate("[...document.querySelectorAll('main button')].map(b => b.getBoundingClientRect().right)")
    assert len(edges) == 7
    assert max(edges) <= 400


def test_the_page_with_a_noisy_picture_is_small(page: Page, web: RunningWeb) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG", compress_level=1)
    sizes: list[int] = []
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    sign_in(page, web)
    network.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
    network.send("Network.setCacheDisabled", {"cacheDisabled": True})
    page.reload()
    web.publish(1, picture=content.getvalue())
    page.wait_for_selector("#overlay:visible")
    wait_until(lambda: page.evaluate("true") and sum(sizes) > 50_000, "the size of the picture")
    assert sum(sizes) <= 200_000
