"""The page of `npo samples --html`, opened from a file: its filters show what they say."""

from playwright.sync_api import Browser

from npo_core.reporting.samples import Group
from npo_core.reporting.samples_page import samples_page


def group(step: int, rate: float, kind: str = "policy", source: str = "") -> Group:
    row = {"kind": kind, "source": source, "verdict": "wrong", "reward": 0.0, "advantage": 0.0, "tokens": 1}
    return Group(
        "main", step, 0, f"{step:016x}", "<b>p</b>", rate, [row | {"completion": "<img src=x onerror=alert(1)>"}]
    )


def test_filters_of_the_page(browser: Browser, tmp_path):
    groups = [group(1, 0.0), group(2, 0.0, "injected", "past-successes"), group(3, 0.5), group(4, 1.0)]
    (tmp_path / "page.html").write_text(samples_page(groups, "Samples"))
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto((tmp_path / "page.html").as_uri())

    def shown() -> list[str]:
        return [found.get_attribute("data-step") for found in page.locator("article:visible").all()]

    assert shown() == ["1", "2", "3", "4"] and page.locator("output").inner_text() == "4 of 4 groups"
    page.select_option("[name=outcome]", "failed")
    assert shown() == ["1", "2"]
    page.select_option("[name=source]", "past-successes")
    assert shown() == ["2"]
    page.select_option("[name=outcome]", "")
    page.select_option("[name=source]", "")
    page.fill("[name=from]", "3")
    assert shown() == ["3", "4"] and page.locator("output").inner_text() == "2 of 4 groups"
    page.fill("[name=from]", "")
    page.fill("[name=prompt]", f"{4:016x}")
    assert shown() == ["4"]
    assert page.locator("article b, article img").count() == 0 and errors == []
    page.close()
