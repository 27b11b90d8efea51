"""The report in a browser: by mouse, by keyboard, on a phone, in print, and with hostile file names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deephotlink.pipelines.outputs.report.page import report_command
from tests.browser import chromium
from tests.reporting import HOSTILE, add_frames, frame_row, make_archive, make_output

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 780}
HOSTILE_SHOWN = 9


@dataclass
class Seen:
    """What a page did that a report must never do."""

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    results = make_archive(75)
    run = make_output(out, results)
    worst = [result for result in results if result.score and result.score.verdict == "manipulated"]
    worst.sort(key=lambda result: result.outcome.file.uri)
    rows = [frame_row(run, result, kind=kind) for result in worst[:3] for kind in ("frame", "face")]
    add_frames(out, run, rows)
    assert report_command(str(out)) == 0
    return out / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Callable[..., Any]]:
    """Opens the report; at the end nothing may have been said on the console, and nothing asked of any network."""
    contexts, seen = [], Seen()

    def open_page(viewport: dict[str, int] = DESKTOP, **options: Any) -> Any:
        context = browser.new_context(viewport=viewport, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: seen.console.append(message.text))
        page.on("pageerror", lambda error: seen.console.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert seen.console == []
    assert [url for url in seen.requests if not url.startswith("data:image/jpeg;base64,")] == [report.as_uri()] * len(
        contexts
    )


def names_of(page: Any) -> list[str]:
    return page.locator("#rows .opener .name").all_inner_texts()


def test_the_first_screen_says_what_was_found(opened):
    page = opened()
    assert page.locator("h1").inner_text() == "11 of 75 files are probably manipulated"
    assert page.locator("svg.bar").get_attribute("aria-label").startswith("Probably manipulated: 11, Undecided: 21")
    assert page.locator("svg.bar rect").count() == page.locator(".legend li").count() == 6
    assert "no face was found (11)" in page.locator(".coverage").inner_text()
    assert page.locator("#tiles button").count() == 6 and page.locator("#tiles img").count() == 3
    assert page.locator("#status").inner_text() == "75 files"


def test_rows_come_as_they_are_needed_and_all_of_them(opened):
    page = opened()
    assert len(names_of(page)) == 60 and page.locator(".card").count() == 0
    page.locator("#more button").scroll_into_view_if_needed()
    page.locator("#rows .opener").nth(74).wait_for()
    assert page.locator("#more").is_hidden()


def test_filters_by_verdict_family_folder_and_words(opened):
    page = opened()
    page.click(".chip[data-verdict=manipulated]")
    assert page.locator("#status").inner_text() == "11 of 75 files" and len(names_of(page)) == 11
    page.click(".chip[data-verdict=failed]")
    assert page.locator("#status").inner_text() == "22 of 75 files"
    page.click(".chip[data-verdict=failed]")
    page.select_option("#by-folder", "/archive/evening news")  # and what lies below it
    both = int(page.locator("#status").inner_text().split()[0])
    page.select_option("#by-folder", "/archive/evening news/2019")
    assert 0 < int(page.locator("#status").inner_text().split()[0]) < both < 11
    page.click("#clear")
    assert page.locator("#status").inner_text() == "75 files"
    towards = page.locator("#by-family optgroup").first.locator("option").all_inner_texts()
    assert "Faces (11)" in towards
    page.select_option("#by-family", label="Faces (11)")
    assert set(page.locator("#rows .badge").all_inner_texts()) == {"▲ Probably manipulated"}
    page.click("#clear")
    page.fill("#q", "TAKE 02 probably")
    page.locator("#clear").wait_for()
    assert names_of(page) and all(re.fullmatch(r"take 02\d\.mp4", name) for name in names_of(page))
    page.fill("#q", "no such file")
    page.wait_for_selector("td.none")
    assert page.locator("#status").inner_text() == "0 of 75 files"


def test_sorts_by_heads_and_says_so(opened):
    page = opened()

    def said() -> dict[str, str]:
        heads = page.locator("#heads th")
        return {heads.nth(n).inner_text().strip(" ↑↓"): heads.nth(n).get_attribute("aria-sort") for n in range(5)}

    assert set(said().values()) == {"none"}
    page.get_by_role("button", name="Length").click()
    assert said()["Length"] == "ascending" and page.locator("#sort").input_value() == "seconds:ascending"
    lengths = page.locator("#rows .c-seconds").all_inner_texts()
    known = [text for text in lengths if text]
    assert known == sorted(known) and lengths[len(known) :] == [""] * (60 - len(known))
    page.get_by_role("button", name="Length").click()
    assert said()["Length"] == "descending"
    assert page.locator("#rows .c-seconds").first.inner_text() == "1:32"
    page.select_option("#sort", "place:ascending")
    assert set(said().values()) == {"none"}


def test_a_card_shows_the_moments_the_chart_and_both_sides(opened):
    page = opened()
    page.locator("#rows .opener").first.click()
    card = page.locator(".card").first
    text = card.inner_text()
    assert "What was found is above the threshold for calling a file manipulated" in text
    assert "The face at 0:10-0:14 looks blended in or redrawn. facial" in text
    assert "The picture has no traces" in text or "The picture at" in text
    assert "nothing about how it was made. no_indication" in text and "Not looked at: cover art" in text
    assert "Valid Content Credentials Valid, camera <1>" in text
    assert page.evaluate("[...document.querySelectorAll('.card img')].map((i) => i.naturalWidth)") == [160, 160]
    assert card.locator(".shot svg rect.box").count() == 1
    chart = card.locator("svg.timeline")
    assert "Faces (facial) points to manipulation at 0:10-0:14" in chart.get_attribute("aria-label")
    assert "Not looked at: " in chart.get_attribute("aria-label")
    assert chart.locator(".lane .unseen").count() == 3 and chart.locator("rect.said.towards").count() >= 1
    assert chart.locator("rect.silent title").first.text_content().endswith("nobody speaks")
    numbers = card.locator("details", has_text="Numbers, and how").get_by_text("+3.4").first
    assert not numbers.is_visible()
    card.get_by_text("Numbers, and how to get all of them").click()
    assert numbers.is_visible() and "deephotlink query" in card.inner_text()
    card.get_by_text("What these detectors cannot see").click()
    assert "Apache-2.0" in card.inner_text() and "heavy compression" in card.inner_text()


def test_everything_by_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("take 003")
    page.locator("#status", has_text="1 of 75 files").wait_for()
    while "opener" not in page.evaluate("document.activeElement.className"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    opener = page.locator("#rows .opener")
    assert opener.get_attribute("aria-expanded") == "true" and page.locator(".card").count() == 1
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    assert page.locator(".card").count() == 0 and opener.evaluate("(b) => b === document.activeElement")
    page.click("#clear")
    assert page.evaluate("document.activeElement.id") == "q"
    page.get_by_role("button", name="Authenticity").focus()
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.textContent").startswith("Authenticity")
    page.locator("#tiles button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".card").count() == 1 and "opener" in page.evaluate("document.activeElement.className")


def test_names_that_attack_are_only_shown(opened, report):
    page = opened()
    page.locator("#more button").scroll_into_view_if_needed()
    page.locator("#rows .opener").nth(74).wait_for()
    names = names_of(page)
    assert "</script><script>document.title='owned'</script>.mp4" not in names  # its slash ends a folder
    assert "script>.mp4" in names and "<img src=x onerror=document.title='owned'>.mp4" in names
    assert "\\u202egpj.4pm\\u2066.mp4" in names and "line\\x0abreak\\x1b]0;owned\\x07.mp4" in names
    assert "lone \\x80 surrogate.mp4" in names
    assert "{{script}} {{data}} ${7*7}.mp4" in names and "نشيد.mp4" in names
    for button in page.locator("#rows .opener").all():
        button.click()
    assert page.locator(".card").count() == 75
    assert (
        page.title().startswith("deephotlink: /archive") and page.locator("main script, main img[src=x]").count() == 0
    )
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", page.content())
    assert len(HOSTILE) == HOSTILE_SHOWN


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_scrolling_sideways(opened, scheme):
    page = opened(PHONE, color_scheme=scheme)
    for _ in range(4):
        page.locator("#rows .opener[aria-expanded=false]").first.click()
    for summary in page.locator("main > section > details > summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    sizes = page.evaluate(
        "[...document.querySelectorAll('#filters input, #filters select, .chip')].map((e) => e.offsetHeight)"
    )
    assert min(sizes) >= 34


def test_colours_can_be_told_from_their_ground(opened):
    """WCAG AA, of all text that is shown with a card open."""
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        for _ in range(3):
            page.locator("#rows .opener[aria-expanded=false]").first.click()
        page.click(".chip[data-verdict=inconclusive]")
        assert page.evaluate(CONTRASTS) == []


def test_paper_shows_cards_and_no_controls(opened):
    page = opened()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("#filters").is_hidden() and page.locator(".card").count() == 60
    assert page.locator("#files").is_visible()


def test_landmarks_and_labels(opened):
    page = opened()
    page.locator("#rows .opener").first.click()
    for role in ("banner", "main", "search", "table"):
        assert page.get_by_role(role).count() >= 1, role
    for label in ("Search", "Evidence", "Folder", "Sort by"):
        assert page.get_by_label(label, exact=True).count() == 1, label
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, svg[role=img], [role=group]')].filter((e) =>"
        " !(e.getAttribute('aria-label') || e.textContent).trim()).length"
    )
    assert unnamed == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate(
        "[...document.querySelectorAll('section[aria-labelledby]')]"
        ".every((section) => document.getElementById(section.getAttribute('aria-labelledby')))"
    )


def test_without_a_script_the_counts_can_be_read(opened):
    context = opened().context.browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(opened().url)
    assert "11 of 75 files" in page.locator("h1").inner_text() and page.locator(".legend li").count() == 6
    assert "need JavaScript" in page.locator("noscript").inner_text()
    context.close()


CONTRASTS = """() => {
  const numbers = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const f = (v) => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => {
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const bad = [];
  for (const e of document.querySelectorAll("main *, header *")) {
    const said = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!said || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), svg = e.namespaceURI.endsWith("svg");
    if (e.tagName === "title" || e.tagName === "OPTION" || style.clipPath !== "none") continue;
    const [a, b] = [light(numbers(svg ? style.fill : style.color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${e.tagName}.${e.getAttribute("class")} ${e.textContent.slice(0, 30)} ${ratio}`);
  }
  return [...new Set(bad)];
}"""
