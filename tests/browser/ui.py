"""What a person does on the pages of the Prefect UI: type, click, look."""

import re
from dataclasses import dataclass
from re import Pattern

from playwright.sync_api import Locator, Page, Response, expect

from tests.product.conftest import Served


@dataclass
class UI:
    """A window on a `make serve`."""

    page: Page
    served: Served

    def open_deployment(self, name: str) -> None:
        """Deployments, and the deployment `flow/name`, which may be on the list's second page."""
        found = self.served.ask(f"deployments/name/{name}")
        self.page.goto(f"{self.served.url}/deployments/deployment/{found['id']}")

    def open_form(self, deployment: str) -> None:
        """The deployment, Run, Custom run."""
        self.open_deployment(deployment)
        self.click("Run")
        self.page.get_by_text("Custom run").click()
        expect(self.page.get_by_role("button", name="Submit")).to_be_visible(timeout=60_000)

    def field(self, label: str) -> Locator:
        """The innermost part of the form with this label."""
        caption = self.page.locator(".schema-form-property__label").get_by_text(f"{label} (Optional)", exact=True)
        return self.page.locator(".schema-form-property").filter(has=caption).last

    def type(self, label: str, value: object) -> None:
        """Type into a field; one that may stay empty asks for its type first."""
        field = self.field(label)
        if (given := field.get_by_role("button", name="None", exact=True)).count():
            given.locator("xpath=preceding-sibling::button").click()
        field.locator("input, textarea").fill(str(value))

    def choose(self, label: str, value: str) -> None:
        """Pick from a list, which opens by the keyboard: a click of the automated mouse opens and closes it at once."""
        self.field(label).locator(".p-select-button__control").press("Space")
        self.page.locator(".p-select-option").get_by_text(value, exact=True).click()

    def submit(self, call: str) -> Response:
        """Submit a form; again where the server was too busy, which the page calls an Oops and keeps the form."""
        for _ in range(5):
            with self.page.expect_response(f"**/{call}") as answer:
                self.click("Submit")
            if answer.value.status != 503:
                return answer.value
        raise AssertionError(f"{call}: the server is too busy")

    def start(self) -> str:
        """Submit the form of a deployment; the id of the flow run."""
        return self.submit("create_flow_run").json()["id"]

    def quick_run(self, deployment: str) -> str:
        """Run, Quick run; the id of the flow run."""
        self.open_deployment(deployment)
        self.click("Run")
        with self.page.expect_response("**/create_flow_run") as answer:
            self.page.get_by_text("Quick run").click()
        return answer.value.json()["id"]

    def open_run(self, run: str) -> None:
        self.page.goto(f"{self.served.url}/runs/flow-run/{run}")

    def leave(self) -> None:
        """To an empty page: while a run goes on, the browser draws the animations of its page without end."""
        self.page.goto("about:blank")

    def click(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()

    def confirmed(self, button: str, confirm: str) -> None:
        """Click, and say in the dialog that it is meant."""
        self.click(button)
        self.page.locator(".p-modal").get_by_role("button", name=confirm, exact=True).click()

    def see_state(self, run: str, name: str, seconds: float = 600) -> None:
        """The badge at the head of a run's page, once the server has the run in this state."""
        self.leave()
        self.served.wait(run, {{"Suspended": "PAUSED"}.get(name, name.upper())}, seconds)
        self.open_run(run)
        badge = self.page.locator(".state-badge").get_by_text(name, exact=True).first
        expect(badge).to_be_visible(timeout=120_000)

    def open_artifact(self, key: str) -> None:
        """The run's artifacts, and one of them."""
        self.page.get_by_text("Artifacts", exact=True).last.click()
        self.page.get_by_text(key, exact=True).first.click()
        self.page.wait_for_url("**/artifacts/artifact/*")

    def see(self, text: str | Pattern[str], seconds: float = 30) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible(timeout=1000 * seconds)

    def name_it(self, name: str) -> None:
        """Type a name for the run into the form of a deployment."""
        self.page.locator(".flow-run-name-input input").fill(name)


@dataclass
class SecondUI:
    """A window on the UI that opens by default, under /v2."""

    page: Page
    served: Served

    def leave(self) -> None:
        """To an empty page: while a run goes on, the browser draws the animations of its page without end."""
        self.page.goto("about:blank")

    def open(self, path: str) -> None:
        self.page.goto(f"{self.served.url}/v2/{path}")

    def open_deployment(self, name: str) -> None:
        """Deployments, and the deployment `flow/name`."""
        self.open(f"deployments/deployment/{self.served.ask(f'deployments/name/{name}')['id']}")

    def quick_run(self, deployment: str) -> str:
        """Run, Quick run; the id of the flow run. Again where the server was too busy."""
        self.open_deployment(deployment)
        for _ in range(5):
            self.click("Run")
            with self.page.expect_response("**/create_flow_run") as answer:
                self.page.get_by_role("menuitem", name="Quick run").click()
            if answer.value.status != 503:
                return answer.value.json()["id"]
        raise AssertionError("the server is too busy")

    def open_form(self, deployment: str) -> None:
        """Run, Custom run."""
        self.open_deployment(deployment)
        self.click("Run")
        self.page.get_by_text("Custom run").click()
        expect(self.page.get_by_role("button", name="Submit")).to_be_visible(timeout=60_000)

    def titles(self) -> list[str]:
        """The captions of the form, in order."""
        expect(self.page.locator("label").get_by_text("advanced (Optional)", exact=True)).to_be_visible(timeout=60_000)
        return [text.removesuffix(" (Optional)") for text in self.page.locator("label").all_inner_texts()]

    def type(self, title: str, value: object) -> None:
        """Type into a field of a form by its title; one that may stay empty asks for its type first."""
        caption = self.page.locator("label").get_by_text(re.compile(rf"^{re.escape(title)}( \(Optional\))?$"))
        field = self.page.locator("div.group").filter(has=caption).last
        if (tab := field.get_by_role("tab", name="str", exact=True)).count():
            tab.click()
        field.locator("input, textarea, .cm-content").first.press("ControlOrMeta+a")  # `fill` leaves an editor's text
        self.page.keyboard.insert_text(str(value))

    def start(self) -> str:
        """Submit the form of a deployment; the id of the flow run."""
        with self.page.expect_response("**/create_flow_run") as answer:
            self.click("Submit")
        return answer.value.json()["id"]

    def add_schedule(self, every: int, unit: str) -> None:
        """On a deployment's page: Schedule, an interval, Save."""
        self.click("Schedule")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_label("Value").fill(str(every))
        dialog.get_by_role("combobox", name="Interval").click()
        self.page.get_by_role("option", name=unit, exact=True).click()
        with self.page.expect_response("**/schedules"):
            dialog.get_by_role("button", name="Save", exact=True).click()

    def open_run(self, run: str) -> None:
        self.open(f"runs/flow-run/{run}")

    def open_artifact(self, key: str) -> None:
        """The newest of a key."""
        wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
        self.open(f"artifacts/artifact/{self.served.ask('artifacts/filter', wanted)[0]['id']}")

    def width(self, picture: str) -> int:
        """Pixels of a picture of an artifact, once it is decoded."""
        found = self.page.get_by_alt_text(picture, exact=True).first
        return found.evaluate("image => image.decode().then(() => image.naturalWidth)")

    def click(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def menu(self, item: str, confirm: str) -> None:
        """The menu at the head of a run's page, and what its dialog asks."""
        self.page.locator("button[aria-haspopup=menu]").first.click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()
        self.page.get_by_role("dialog").get_by_role("button", name=confirm, exact=True).click()

    def see(self, text: str | Pattern[str], seconds: float = 30) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible(timeout=1000 * seconds)
