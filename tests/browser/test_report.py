"""The report in a browser, opened from disk.

Covers: no console error; search, filters and order; the state in the address; the keyboard; the large view; hostile
text that stays text; light, dark and the toggle; a phone's width; print; no script at all; 200 cards at once.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

VISIBLE = "return [...document.querySelectorAll('.card:not([hidden]) .caption')].map((p) => p.textContent)"
FOCUSED = "return document.activeElement.closest('.card')?.querySelector('.number').textContent"


def errors(driver) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser")]


def find(driver, selector: str):
    from selenium.webdriver.common.by import By

    return driver.find_element(By.CSS_SELECTOR, selector)


def press(driver, *keys: str) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    for name in keys:
        ActionChains(driver).send_keys(getattr(Keys, name, name)).perform()


def until(driver, script: str):
    """Waits until a script is true; the address follows what is typed after a moment."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 20, poll_frequency=0.05).until(lambda d: d.execute_script(f"return {script}"))


def test_opens_from_disk_without_a_complaint(open_page, report):
    driver = open_page(report)
    assert len(driver.execute_script(VISIBLE)) > 150
    assert driver.execute_script("return [...document.images].every((image) => image.complete && image.naturalWidth)")
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert errors(driver) == []


def test_search_finds_captions_references_and_addresses(open_page, report):
    driver = open_page(report)
    all_cards = len(driver.execute_script(VISIBLE))
    number = driver.execute_script(VISIBLE)[7].split()[-1]
    for words in (f"PICTURE {number}", f"reference of {number}", f"images.test/{number}.jpg"):
        find(driver, "#q").clear()
        find(driver, "#q").send_keys(words)
        assert driver.execute_script(VISIBLE) == [f"picture number {number}"]
        assert find(driver, "#shown").text == f"1 of {all_cards} images"
    find(driver, "#q").send_keys(" nowhere")
    assert driver.execute_script(VISIBLE) == [] and find(driver, "#nothing").is_displayed()
    assert driver.execute_script("return document.querySelectorAll('.strip:not([hidden])').length") == 0
    press(driver, "ESCAPE")
    assert len(driver.execute_script(VISIBLE)) == all_cards


def test_groups_are_shown_in_their_order(open_page, report):
    driver = open_page(report)
    driver.execute_script("document.querySelector('[name=group][value=best]').click()")
    best = [int(text.split()[-1]) for text in driver.execute_script(VISIBLE)]
    assert best == sorted(best, reverse=True) and len(best) == 40 and best[0] == 1219
    driver.execute_script("document.querySelector('[name=group][value=worst]').click()")
    assert [text.split()[-1] for text in driver.execute_script(VISIBLE)[:2]] == ["1", "0"]


def test_split_score_and_order_filter(open_page, report):
    driver = open_page(report)
    driver.execute_script("document.getElementById('filters').open = true")
    find(driver, "#split").send_keys("val")
    find(driver, "#min").send_keys("11.5")
    find(driver, "#max").send_keys("12")
    find(driver, "#sort").send_keys("lowest")
    numbers = [int(text.split()[-1]) for text in driver.execute_script(VISIBLE)]
    assert numbers and numbers == sorted(numbers)
    assert all(n % 2 == 0 and 1150 <= n <= 1200 for n in numbers)
    assert find(driver, "#active").text == "4 set"
    driver.execute_script("document.querySelector('#tools [type=reset]').click()")
    until(driver, "document.getElementById('active').textContent === ''")
    assert len(driver.execute_script(VISIBLE)) > 150


def test_the_address_tells_another_person_the_same(open_page, report):
    driver = open_page(report)
    find(driver, "#q").send_keys("number 11")
    driver.execute_script("document.querySelector('[name=group][value=random]').click()")
    until(driver, "location.hash.includes('q=number+11') && location.hash.includes('group=random')")
    shown, fragment = driver.execute_script(VISIBLE), driver.execute_script("return location.hash")
    again = open_page(report, fragment=fragment)
    assert again.execute_script(VISIBLE) == shown and shown
    assert find(again, "#q").get_attribute("value") == "number 11"
    again.execute_script("document.querySelector('.card:not([hidden]) .frame').click()")
    third = open_page(report, fragment=again.execute_script("return location.hash"))
    assert find(third, "#view").is_displayed() and find(third, "#view .caption").text == shown[0]
    assert errors(driver) + errors(again) + errors(third) == []


def test_an_address_with_nonsense_shows_everything(open_page, report):
    driver = open_page(report, fragment="#group=%3Cscript%3E&split=nowhere&image=none&min=abc&sort=x&q=")
    assert len(driver.execute_script(VISIBLE)) > 150 and not find(driver, "#view").is_displayed()
    assert errors(driver) == []


def test_the_keyboard_reaches_everything(open_page, report):
    driver = open_page(report)
    press(driver, "/")
    assert driver.execute_script("return document.activeElement.id") == "q"
    press(driver, "a", "ESCAPE", "ESCAPE")
    assert driver.execute_script("return document.activeElement.id") != "q"
    press(driver, "ARROW_RIGHT")
    assert driver.execute_script(FOCUSED) == "1"
    press(driver, "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_LEFT")
    assert driver.execute_script(FOCUSED) == "2"
    columns = driver.execute_script(
        "return getComputedStyle(document.getElementById('cards')).gridTemplateColumns.split(' ').length"
    )
    press(driver, "ARROW_DOWN")
    assert driver.execute_script(FOCUSED) == str(2 + columns)
    press(driver, "ARROW_UP", "ENTER")
    assert find(driver, "#view").is_displayed() and find(driver, "#view .number").text == "2"
    press(driver, "ARROW_RIGHT")
    assert find(driver, "#view .number").text == "3"
    press(driver, "ESCAPE")
    assert not find(driver, "#view").is_displayed() and driver.execute_script(FOCUSED) == "3"
    press(driver, "?")
    assert find(driver, "#help").is_displayed()
    press(driver, "ESCAPE")
    assert not find(driver, "#help").is_displayed()
    assert errors(driver) == []


def test_a_focused_frame_can_be_seen(open_page, report):
    driver = open_page(report)
    press(driver, "ARROW_RIGHT")
    outline = driver.execute_script(
        "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]"
    )
    assert outline == ["solid", "2px"]


def test_the_large_view_tells_all_of_an_image(open_page, report):
    driver = open_page(report)
    driver.execute_script("document.querySelector('.card:not([hidden]) .frame').click()")
    number = find(driver, "#view .caption").text.split()[-1]
    words = find(driver, "#view-words").text
    for told in (f"drawing number {number}", f"Reference of {number}.", "CIDEr", "production", "sha256", ".tar",
                 "embeddings/toy@feedfacecafe", "trained by run", f"0a1b2c3d-{int(number):07d}"):  # fmt: skip
        assert told in words, told
    assert find(driver, "#view img").size["height"] > 300
    ids = driver.execute_script("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_hostile_text_is_inert(open_page, hostile_report):
    from selenium.common.exceptions import NoAlertPresentException

    driver = open_page(hostile_report)
    counted = (
        "return ['script', 'style', 'svg[onload]', 'textarea', 'iframe', '[onerror]', '[onfocus]', '[autofocus]'].map("
    )
    counted += "(found) => document.querySelectorAll(found).length)"
    assert driver.execute_script(counted) == [1, 1, 0, 0, 0, 0, 0, 1]  # the large view's own
    texts = " ".join(driver.execute_script(VISIBLE))
    assert "<script>window.wrong = 1; alert(1)</script>" in texts and "␛[31mred␛[0m ␀ nul ␇ bell" in texts
    assert "(9,000 more characters)" in texts and "{{ 7 * 7 }}" in texts
    for position in range(len(driver.execute_script(VISIBLE))):
        driver.execute_script("document.querySelectorAll('.frame')[arguments[0]].click()", position)
        assert driver.execute_script(
            "const v = document.getElementById('view-words'); return v.scrollWidth <= v.clientWidth"
        )
        press(driver, "ESCAPE")
    assert (
        driver.execute_script("return [...document.links].filter((a) => !/^(http|file)/.test(a.protocol)).length") == 0
    )
    assert driver.execute_script("return window.wrong") is None
    with pytest.raises(NoAlertPresentException):
        driver.switch_to.alert.accept()
    assert errors(driver) == []


@pytest.mark.parametrize("width", [390, 700, 1300])
@pytest.mark.parametrize("which", ["report", "hostile_report"])
def test_nothing_is_wider_than_the_window(open_page, request, which, width):
    driver = open_page(request.getfixturevalue(which), width=width, height=844)
    driver.execute_script("document.getElementById('filters').open = true")
    assert driver.execute_script("return document.documentElement.scrollWidth") == width
    wide = """
        return [...document.querySelectorAll('main *, header *')]
            .filter((e) => e.checkVisibility({contentVisibilityAuto: true}))
            .filter((e) => !e.closest('.scroll, pre, svg, .sr, .references, .source'))
            .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
            .map((e) => e.outerHTML.slice(0, 80))"""
    assert driver.execute_script(wide) == []
    driver.execute_script("document.querySelector('.frame').click()")
    assert find(driver, "#view").size["width"] <= width


def test_dark_follows_the_system_and_the_toggle(open_page, report):
    ground = "return getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(251, 250, 247)", "rgb(22, 22, 20)"
    driver = open_page(report, theme="dark")
    assert driver.execute_script(ground) == dark
    seen = []
    for _ in range(3):
        find(driver, "#theme").click()
        seen.append(driver.execute_script(ground))
    assert seen == [light, dark, dark] and "as the system" in find(driver, "#theme").text
    assert open_page(report).execute_script(ground) == light


def test_it_can_be_printed(open_page, report):
    driver = open_page(report, theme="dark")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return getComputedStyle(document.querySelector(arguments[0])).display"
    assert [driver.execute_script(shown, part) for part in ("nav", "#tools", ".buttons")] == ["none"] * 3
    assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_without_script_everything_is_there(open_page, report):
    driver = open_page(report)
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    driver.refresh()
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert len(driver.execute_script(VISIBLE)) > 150
    assert not find(driver, "#tools").is_displayed() and not find(driver, "#theme").is_displayed()
    assert find(driver, ".card .facts").is_displayed()
