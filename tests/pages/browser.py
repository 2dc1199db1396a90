"""A real Chromium for the tests of pages, and what they say when they fail."""

import base64
import contextlib
import json
import sys
import time
import urllib.request

from playwright.sync_api import expect, sync_playwright

# A loaded machine is slow; nothing is measured by these.
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)

PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 800}


class Scene:
    """What the test set up: a gateway with records, and where to look."""

    def __init__(self, told):
        self.__dict__.update(told)

    def path(self, page):
        """A page's path, with what stands for the scene's wallet, key and record filled in."""
        return page["path"].format(wallet=self.wallet, key=self.key_id, record=self.record)

    def pages(self):
        return [(page["name"], self.url + self.path(page)) for page in self.table]

    def json(self, path):
        with urllib.request.urlopen(self.url + path) as answer:
            return json.load(answer)

    def call(self):
        """One more call, and so one more record."""
        request = urllib.request.Request(
            f"{self.url}/openai/t/{self.token}/v1/chat/completions",
            data=b'{"model":"chat.json"}', headers={"content-type": "application/json"},
        )
        urllib.request.urlopen(request).read()

    def grow(self):
        """One more record, published."""
        before = self.published()
        self.call()
        until(lambda: self.published() > before, "the new record is not published")

    def published(self):
        with urllib.request.urlopen(f"{self.url}/checkpoint") as answer:
            return int(answer.read().split(b"\n")[1])


def until(holds, why):
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not holds():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


@contextlib.contextmanager
def chromium(scene, *arguments):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=scene.chromium,
            # Tests may run as root; the machine's /dev/shm may be small.
            args=["--no-sandbox", "--disable-dev-shm-usage", *arguments],
        )
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def visitor(browser, **options):
    """A visitor of whom nothing is known, and what went wrong on its pages."""
    options.setdefault("viewport", DESK)
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.faults = []
    page.on("console", lambda said: said.type in ("error", "warning") and page.faults.append(f"{page.url}: {said.text}"))
    page.on("pageerror", lambda error: page.faults.append(f"{page.url}: {error}"))
    try:
        yield page
    finally:
        context.close()


def open_page(page, url):
    """Opens a page and waits until it and its scripts have come, and what they check is checked."""
    answer = page.goto(url, wait_until="load")
    assert answer.status == 200, f"{url}: {answer.status}"
    if page.locator("#verify[data-wallet], #verify[data-record]").count():
        settled(page)
    return answer


def settled(page):
    """Waits until the page says how its checking ended; what it says."""
    status = page.locator("#verify .callout:is(.ok, .bad, .warn)").first
    status.wait_for(state="attached")
    expect(page.locator("#verify .steps > .waits")).to_have_count(0)
    return status.inner_text()


def altered(text, place):
    """A text with one character changed for another, which is one of base64, of hex and of numbers."""
    old = text[place]
    new = next(c for c in "73" if c != old)
    return text[:place] + new + text[place + 1:]


def flipped(base64_text, byte=0):
    """Base64 with one bit of one byte changed, so that it still decodes."""
    raw = bytearray(base64.b64decode(base64_text))
    raw[byte] ^= 1
    return base64.b64encode(bytes(raw)).decode()


def main(tasks):
    """Runs the task that is named first, on the scene in the file that is named second."""
    name, file = sys.argv[1:]
    with open(file, encoding="utf-8") as told:
        tasks[name](Scene(json.load(told)))
