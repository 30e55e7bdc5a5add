"""The page in a real browser: what an analyst sees and does."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import lacking
from playwright.sync_api import Browser, Page, expect, sync_playwright
from web_fakes import FakeAsk, FakeRegistry, FakeStore, jpeg, seen, serving

from pipeline.core import Alert, Answer, Camera, CameraPhase, CameraStatus, Question
from web.api import create_app

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)  # ms; for what must come

CHROMIUM = Path("/usr/bin/chromium")
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
DESKTOP, PHONE = {"width": 1360, "height": 1180}, {"width": 390, "height": 844}
NO_ELEPHANT = "Nothing is remembered of gate between 08:00:00 and 09:00:00"


class Site:
    """The fakes of a small site that has just seen a truck."""

    def __init__(self, token: str | None = None) -> None:
        now = time.time_ns() // 1_000_000
        self.registry, self.store, self.ask = FakeRegistry(last_frame_ms=now), FakeStore(), FakeAsk(at_ms=now)
        self.registry.cams["dock"] = Camera(id="dock", uri="rtsp://host/2")
        for camera, colour in {"gate": "#3b5b73", "yard": "#5d6b4a"}.items():
            for at in (now - 4000, now):
                self.store.pictures[camera, at] = jpeg(camera, colour)
        evidence = (seen("gate", now),)
        alert = Alert(
            id="a", rule_id="r", condition="a truck is at the gate", camera_id="gate", at_ms=now, probability=0.83, evidence=evidence
        )
        self.registry.alerted.append(alert)
        self.app = create_app(self.registry, self.store, self.ask, token=token)

    def served(self) -> AbstractContextManager[str]:
        """The address of the page while the site is up."""
        return serving(self.app)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        lacking(str(CHROMIUM))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, address: str, expected: str = "no complaint", **options: Any) -> Iterator[Page]:
    """The page at an address; at the end nothing but `expected` was complained about in its console."""
    page = browser.new_page(**({"viewport": DESKTOP} | options))
    page.set_default_timeout(60_000)  # ms
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(f"{m.text} {m.location['url']}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    try:
        yield page
        assert [c for c in complaints if expected not in c] == []
    finally:
        page.close()


def ask(page: Page, question: str) -> None:
    page.get_by_label("Ask your cameras").fill(question)
    page.keyboard.press("Enter")


def screenshot(page: Page, name: str) -> None:
    if folder := os.environ.get("LONGWATCH_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def expect_loaded(page: Page, selector: str) -> None:
    page.wait_for_function("s => [...document.querySelectorAll(s)].some(image => image.naturalWidth > 0)", arg=selector)


def test_a_question_is_answered_with_pictures(browser: Browser) -> None:
    site = Site()
    with site.served() as address, visit(browser, address) as page:
        expect(page.locator("#state")).to_have_text("1 of 3 cameras live")
        expect_loaded(page, ".view img")
        page.locator("#chips label", has_text="gate").click()
        page.get_by_text("10 minutes").click()
        ask(page, "What is at the gate?")
        card = page.locator("#answers article").first
        expect(card.locator(".answer")).to_have_text("A red truck is at the gate.")
        expect(card).to_contain_text("91 % sure")
        expect(card).to_contain_text("training-free")
        expect(card).to_contain_text("camera offline")
        expect_loaded(page, "#answers .evidence img")
        screenshot(page, "desktop")
        card.locator(".evidence").first.click()
        expect(page.locator("#picture")).to_be_visible()
        expect_loaded(page, "#picture img")
        page.keyboard.press("Escape")
        expect(page.locator("#picture")).to_be_hidden()
        assert "secret" not in page.content()
    (question,) = site.ask.asked
    assert question.cameras == ("gate",) and question.when is not None
    assert question.when.end_ms - question.when.start_ms == pytest.approx(600_000, abs=5000)


def test_words_are_seen_as_they_come_and_the_answer_takes_their_place(browser: Browser) -> None:
    site, go = Site(), threading.Event()

    async def slow(question: Question) -> AsyncGenerator[str | Answer, None]:
        yield "A red "
        yield "tr\u00fcck "
        await asyncio.to_thread(go.wait, 120)
        yield site.ask.answer()

    site.app = create_app(site.registry, site.store, slow)
    with site.served() as address, visit(browser, address) as page:
        ask(page, "What is at the gate?")
        card = page.locator("#answers article").first
        expect(card.locator(".answer")).to_have_text("A red tr\u00fcck ")
        expect(card).to_have_attribute("aria-busy", "true")
        go.set()
        expect(card.locator(".answer")).to_have_text("A red truck is at the gate.")
        expect(card).not_to_have_attribute("aria-busy", "true")


def test_an_answer_that_breaks_off_is_said_to_have(browser: Browser) -> None:
    site = Site()

    async def breaks_off(_: Question) -> AsyncGenerator[str | Answer, None]:
        yield "A red "

    site.app = create_app(site.registry, site.store, breaks_off)
    with site.served() as address, visit(browser, address) as page:
        ask(page, "What is at the gate?")
        expect(page.locator("#answers article.failed .answer")).to_have_text("The answer broke off. Ask again.")


def test_nothing_remembered_is_said_in_plain_words(browser: Browser) -> None:
    with Site().served() as address, visit(browser, address, expected="/v1/ask") as page:
        ask(page, "Was there an elephant?")
        expect(page.locator("#answers article.failed .answer")).to_have_text(NO_ELEPHANT)


def test_pictures_that_have_expired_are_said_to_be_gone(browser: Browser) -> None:
    site = Site()
    site.ask.at_ms = 1_700_000_000_000
    with site.served() as address, visit(browser, address, expected="/v1/frames/gate/1") as page:
        ask(page, "What was at the gate?")
        expect(page.locator("#answers .no-picture").first).to_have_text("picture no longer kept")


def test_a_rule_is_added_and_removed(browser: Browser) -> None:
    site = Site()
    with site.served() as address, visit(browser, address) as page:
        expect_loaded(page, "#alerts img")
        page.get_by_label("Tell me when").fill("a truck is at the dock")
        page.locator("#add-rule select").select_option("dock")
        page.get_by_role("button", name="Add rule").click()
        expect(page.locator("#rules")).to_contain_text("a truck is at the dock")
        assert [rule.cameras for rule in site.registry.rules()] == [("dock",)]
        page.get_by_label("Remove the rule").click()
        expect(page.locator("#rules li")).to_have_count(0)
    assert site.registry.rules() == []


def test_a_camera_is_added_or_refused_in_words(browser: Browser) -> None:
    site = Site()
    with site.served() as address, visit(browser, address, expected="/v1/streams") as page:
        page.get_by_text("Add a camera").click()
        page.get_by_label("Name", exact=True).fill("pier")
        page.get_by_label("Address").fill("/etc/passwd")
        page.get_by_role("button", name="Add camera").click()
        expect(page.locator("#add-camera .error")).to_contain_text("must begin with rtsp://")
        page.get_by_label("Address").fill("rtsp://user:secret@host/3")
        page.get_by_role("button", name="Add camera").click()
        expect(page.locator("#cameras figure", has_text="pier")).to_contain_text("unwatched")
        assert "secret" not in page.content()
    assert site.registry.cams["pier"].uri == "rtsp://user:secret@host/3"


def test_the_token_is_asked_for_once(browser: Browser) -> None:
    with Site(token="s3").served() as address, visit(browser, address, expected="401") as page:
        page.get_by_label("asks for its token").fill("s3")
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("1 of 3 cameras live")
        expect_loaded(page, ".view img")
        page.reload()
        expect(page.locator("#state")).to_have_text("1 of 3 cameras live")
        expect(page.locator("#login")).to_be_hidden()


def test_a_camera_that_is_sampled_less_says_so_and_is_live(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    slowed = CameraStatus(camera_id="gate", phase=CameraPhase.LIVE, share=0.48)
    monkeypatch.setattr(site.registry, "statuses", lambda: {"gate": slowed})
    with site.served() as address, visit(browser, address) as page:
        expect(page.locator(".phase").first).to_have_text("live at 48 %")
        expect(page.locator("#state")).to_have_text("1 of 3 cameras live")


def test_a_phone_needs_no_sideways_scrolling(browser: Browser) -> None:
    with Site().served() as address, visit(browser, address, viewport=PHONE, color_scheme="dark") as page:
        ask(page, "What is at the gate?")
        expect_loaded(page, "#answers .evidence img")
        expect_loaded(page, ".view img")
        screenshot(page, "phone")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
