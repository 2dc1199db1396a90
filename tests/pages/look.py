"""Pages as people see them: whole, quiet, legible, and without scripts too."""

import collections
import pathlib

from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from browser import DESK, PHONE, chromium, expect, main, open_page, until, visitor

# As issue 8 has it: what the network carries for a first visit.
FIRST_LOAD = 100_000

# What makes a page scroll sideways.
TOO_WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
  [...document.querySelectorAll("main *")].filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
    .slice(0, 5).map((one) => `${one.tagName}.${one.className}#${one.id}: ${one.textContent.slice(0, 40)}`)
"""


def load(scene):
    """Every page comes without a fault, and asks nobody but its own server."""
    faults = []
    with chromium(scene) as browser:
        for name, url in scene.pages():
            with visitor(browser) as page:
                asked, carried = [], collections.Counter()
                page.on("request", lambda request: asked.append(request.url))
                network = page.context.new_cdp_session(page)
                network.send("Network.enable")
                network.on("Network.loadingFinished", lambda done: carried.update(bytes=int(done["encodedDataLength"])))
                policy = open_page(page, url).header_value("content-security-policy")
                took = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
                assert "'unsafe" not in policy and "default-src 'none'" in policy, f"{name}: {policy}"
                foreign = [other for other in asked if not other.startswith((scene.url, "data:", "blob:"))]
                assert not foreign, f"{name} asks others: {foreign}"
                assert not page.faults, f"{name}: {page.faults}"
                assert page.title() and page.locator("main h1").count() == 1, f"{name} has no title or no heading"
                assert carried["bytes"] < FIRST_LOAD, f"{name}: {carried['bytes']} bytes"
                print(f"{name}: first load {carried['bytes'] / 1000:.1f} kB, {took:.0f} ms")
                for size in (DESK, PHONE):
                    page.set_viewport_size(size)
                    wide = page.evaluate(TOO_WIDE)
                    if wide:
                        faults.append(f"{name} is too wide for {size['width']} px: {wide}")
    assert not faults, "\n".join(faults)


def read(scene):
    """Without scripts, every page has the same headings and its text."""
    with chromium(scene) as browser:
        for name, url in scene.pages():
            said = []
            for scripts in (True, False):
                with visitor(browser, java_script_enabled=scripts) as page:
                    page.goto(url)
                    main_text = page.locator("main")
                    said.append(page.locator("main h1").inner_text())
                    assert len(main_text.inner_text()) > 100, f"{name} says next to nothing, scripts: {scripts}"
                    for form in page.locator("main form:not([method=get])").all() if not scripts else []:
                        if not form.is_visible():
                            continue
                        enabled = form.locator("button:enabled, input[type=submit]:enabled").count()
                        assert enabled == 0 or form.get_attribute("action"), f"{name}: a form that does nothing without scripts"
            assert said[0] == said[1], f"{name}: {said}"


def access(scene):
    """axe finds nothing serious, light and dark, on a desk and on a phone."""
    found = []
    with chromium(scene) as browser:
        for scheme, size in (("light", DESK), ("dark", DESK), ("light", PHONE)):
            for name, url in scene.pages():
                with visitor(browser, color_scheme=scheme, viewport=size) as page:
                    open_page(page, url)
                    for rule in Axe().run(page).response["violations"]:
                        if rule["impact"] in ("serious", "critical"):
                            places = [node["target"] for node in rule["nodes"]][:3]
                            found.append(f"{name}, {scheme}, {size['width']} px: {rule['id']}: {rule['help']}: {places}")
    assert not found, "\n".join(found)


def live(scene):
    """What happens is shown without a reload."""
    with chromium(scene) as browser, visitor(browser) as page:
        open_page(page, scene.url + "/")
        page.evaluate("window.notReloaded = true")
        size = page.locator("[data-live=size]").first
        before = int(size.get_attribute("value"))
        scene.call()
        until(lambda: int(size.get_attribute("value")) > before, "no live update")
        assert page.evaluate("window.notReloaded") is True, "the page was loaded again"
        assert not page.faults, page.faults


def screenshots(scene):
    """Pictures of every page, for a person's eye."""
    folder = pathlib.Path(scene.screenshots)
    folder.mkdir(parents=True, exist_ok=True)
    with chromium(scene) as browser:
        for look, scheme, size in (("light", "light", DESK), ("dark", "dark", DESK), ("phone", "light", PHONE)):
            for name, url in scene.pages():
                with visitor(browser, color_scheme=scheme, viewport=size) as page:
                    open_page(page, url)
                    expect(page.locator("main h1")).to_be_visible()
                    whole = folder / f"{name}-{look}.png"
                    page.screenshot(path=whole, full_page=True, animations="disabled")
                    with Image.open(whole) as picture:
                        top = picture.crop((0, 0, picture.width, min(picture.height, 1600)))
                        top.save(folder / f"{name}-{look}.webp", quality=50, method=6)
                    whole.unlink()


main({"load": load, "read": read, "access": access, "live": live, "screenshots": screenshots})
