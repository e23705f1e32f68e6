"""The page in a real browser:

- it renders on light and dark, wide and narrow, without a word in the console and without a request;
- captions that look like scripts are text;
- search and filters narrow the samples and say how many are left, from the keyboard too;
- sound can be played and pictures are decoded;
- the curves of a training are drawn, in colours and dashes of their own, and open as tables.
"""

from pathlib import Path
from typing import Any

import pytest

from jobs.report import ReportConfig, run
from tests.reports.run_folder import EVIL, RUN, write_run
from tests.reports.test_training_page import SECOND, write_training


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = write_run(tmp_path_factory.mktemp("page"))
    run(ReportConfig(str(output)))
    return output / "runs" / RUN / "report.html"


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = write_training(tmp_path_factory.mktemp("training"))
    run(ReportConfig(str(output)))
    return output / "runs" / SECOND / "report.html"


def visible(browser: Any) -> int:
    return int(browser.js("[...document.querySelectorAll('#cards > .card')].filter(card => card.offsetParent).length"))


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 1280), (False, 500)])
def test_it_renders_without_complaint_or_request(browser: Any, page: Path, dark: bool, width: int) -> None:
    browser.open(page, dark=dark, width=width)
    assert visible(browser) == 7
    ink, paper = (browser.js(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert (sum(map(int, ink[4:-1].split(","))) > sum(map(int, paper[4:-1].split(",")))) == dark
    assert browser.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.complaints() == [] and browser.requests() == []


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 500)])
def test_curves_of_a_training_render_and_have_words(browser: Any, training: Path, dark: bool, width: int) -> None:
    browser.open(training, dark=dark, width=width)
    assert browser.js("[...document.querySelectorAll('figure svg')].every(one => one.getBoundingClientRect().height > 100)")
    assert browser.js("document.querySelectorAll('figure[role=img][aria-label] svg[aria-hidden=true]').length") == 5
    browser.js("document.querySelector('.figures summary').click()")
    assert "masked_text" in browser.driver.find_element("css selector", ".figures table").text
    inks = browser.js("[...document.querySelectorAll('.legend span')].map(one => getComputedStyle(one, '::before').borderTopColor)")
    assert len(set(inks)) == 3  # as many as the chart with most lines has
    assert browser.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.js("[...document.querySelectorAll('nav a')].every(one => document.querySelector(one.getAttribute('href')))")
    assert browser.complaints() == [] and browser.requests() == []


def test_captions_that_look_like_scripts_are_text(browser: Any, page: Path) -> None:
    browser.open(page)
    assert browser.driver.title == f"caption {RUN} · Nightcap"
    assert EVIL in browser.js("[...document.querySelectorAll('.caption')].map(one => one.textContent)")


def test_pictures_are_decoded_and_sound_can_be_played(browser: Any, page: Path) -> None:
    browser.open(page)
    assert browser.js("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    length = browser.driver.execute_async_script(
        "const done = arguments[0], audio = document.querySelector('audio');"
        "audio.onloadedmetadata = () => done(audio.duration); audio.onerror = () => done(-1); audio.load();"
    )
    assert 0.9 < length < 1.3


def test_search_and_filters_narrow_the_samples(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    browser.open(page)
    search = browser.driver.find_element(By.ID, "search")
    search.send_keys("Caption 3")
    assert visible(browser) == 1 and browser.driver.find_element(By.ID, "shown").text == "1 of 7"
    search.send_keys(" nowhere", Keys.ENTER)
    assert visible(browser) == 0 and browser.driver.find_element(By.ID, "nothing").is_displayed()
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys(Keys.BACKSPACE)
    Select(browser.driver.find_element(By.ID, "modality")).select_by_visible_text("audio")
    assert visible(browser) == 1
    Select(browser.driver.find_element(By.ID, "modality")).select_by_visible_text("all")
    Select(browser.driver.find_element(By.ID, "status")).select_by_visible_text("rejected")
    assert visible(browser) == 1
    assert browser.complaints() == []


def test_everything_has_a_name_for_those_who_do_not_see_it(browser: Any, page: Path) -> None:
    browser.open(page)
    assert browser.js("[...document.images].every(image => image.alt)")
    assert browser.js("[...document.querySelectorAll('figure, audio')].every(one => one.getAttribute('aria-label'))")
    assert browser.js("[...document.querySelectorAll('input, select')].every(one => one.labels.length)")
    assert browser.js("document.documentElement.lang") == "en"
