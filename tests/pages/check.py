"""Checking in the browser: it passes, and one changed byte is unmistakable."""

import json
import subprocess
import tempfile

from browser import altered, chromium, expect, flipped, main, open_page, settled, until, visitor


def passes(page, what):
    """The page says that it verified; nothing is red."""
    said = settled(page)
    assert "Verified" in said, f"{what}: {said}"
    assert page.locator("#verify [role=alert], #verify .bad").count() == 0, what
    assert page.locator("#verify .steps > .ok").count() >= 4, what


def fails(page, what):
    """The page says loudly that it did not; nothing says otherwise."""
    settled(page)
    alarm = page.locator("#verify [role=alert]").first
    expect(alarm).to_be_visible()
    assert "not verify" in alarm.inner_text(), f"{what}: {alarm.inner_text()}"
    colour = alarm.evaluate("box => getComputedStyle(box).borderLeftColor").removeprefix("rgb(").removesuffix(")")
    red, green, blue = map(int, colour.split(", "))
    assert red > 2 * green and red > 2 * blue, f"{what}: the alarm is {colour}"
    assert page.locator("#verify .callout.ok").count() == 0, f"{what}: it also says that all is well"


# --- Answers that are changed under way: (path, what, how) --------------------


def note(text):
    """A signed note with one bit of the log's signature changed."""
    head, line, rest = text.rpartition("\u2014 ")
    name, blob = rest.rstrip("\n").split(" ")
    return f"{head}{line}{name} {flipped(blob, 30)}\n"


def in_json(change):
    def changed(body):
        value = json.loads(body)
        change(value)
        return json.dumps(value)
    return changed


def leaf(value, places):
    """The wallet's own leaf is the one of whose number a digit changes."""
    own = next(leaf for leaf in value["proof"]["leaves"] if leaf["leaf"][2:42] == value["wallet"][2:])
    own["leaf"] = altered(own["leaf"], places)


def put(value, *path, change):
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = change(value[path[-1]])


WALLET = [
    ("the checkpoint's signature", lambda v: put(v, "proof", "checkpoint", change=note)),
    ("the count of records in the leaf", lambda v: leaf(v, 44 + 15)),
    ("the output in the leaf", lambda v: leaf(v, 44 + 16 * 2 + 15)),
    ("a hash in a leaf's path", lambda v: put(v, "proof", "leaves", 0, "hashes", 0, change=flipped)),
    ("a hash in the totals entry's path", lambda v: put(v, "proof", "totals", "hashes", 0, change=flipped)),
    ("the totals entry", lambda v: put(v, "proof", "totals", "entry", change=lambda e: e.replace('"count":', '"count":1'))),
    ("entry 0", lambda v: put(v, "proof", "log", "entry", change=lambda e: e.replace('"rules":2', '"rules":3'))),
    ("a leaf left out", lambda v: v["proof"]["leaves"].pop()),
    ("what the totals leave out", lambda v: put(v, "proof", "next", change=lambda _: None)),
    ("the sums", lambda v: put(v, "bound", 0, "records", change=lambda _: 0)),
]


def proof_line(place, change):
    def changed(body):
        lines = body.split("\n")
        lines[place] = change(lines[place])
        return "\n".join(lines)
    return changed


RECORD = [
    ("/api/records/{record}", "a digit of the entry", in_json(lambda v: put(v, "entry", change=lambda e: altered(e, e.index('"time":') + 12)))),
    ("/api/records/{record}", "the receipt's signature", in_json(lambda v: put(v, "receipt", change=note))),
    ("/api/records/{record}", "the index", in_json(lambda v: put(v, "index", change=lambda i: i + 1))),
    ("/api/records/{record}/proof", "a hash of the path", proof_line(2, flipped)),
    ("/api/records/{record}/proof", "the index in the proof", proof_line(1, lambda line: line + "1")),
    ("/api/records/{record}/proof", "the checkpoint's signature", note),
]


def under_way(page, url, change):
    """Answers at `url` come changed."""
    def handle(route):
        answer = route.fetch()
        body = answer.text()
        sent = change(body)
        assert sent != body, f"{url}: nothing was changed"
        route.fulfill(status=answer.status, content_type=answer.headers["content-type"], body=sent)
    page.route(url, handle)


def answers(scene):
    """Wallets and records verify, and do not once a byte is changed under way."""
    wallet, record = f"{scene.url}/wallet/{scene.wallet}", f"{scene.url}/record/{scene.record}"
    cases = [(wallet, f"/api/wallet/{scene.wallet}", what, in_json(change)) for what, change in WALLET]
    cases += [(record, path.format(record=scene.record), what, change) for path, what, change in RECORD]
    with chromium(scene) as browser:
        for url in (wallet, record):
            with visitor(browser) as page:
                open_page(page, url)
                passes(page, url)
                for details in page.locator("#verify .steps details").all():
                    details.locator("summary").click()
                    expect(details.locator("pre").first).to_be_visible()
                assert not page.faults, page.faults
        for url, path, what, change in cases:
            with visitor(browser) as page:
                under_way(page, scene.url + path, change)
                open_page(page, url)
                fails(page, what)


def history(scene):
    """What was seen before is compared, and a changed key is told."""
    url = f"{scene.url}/record/{scene.record}"
    with chromium(scene) as browser, visitor(browser) as page:
        open_page(page, url)
        passes(page, "the first visit")
        scene.grow()
        open_page(page, url)
        passes(page, "the second visit")
        expect(page.locator("#verify .steps > li").last).to_contain_text("that you saw last are the beginning of")
        scene.grow()
        consistency = f"{scene.url}/api/proof/consistency*"
        under_way(page, consistency, in_json(lambda v: put(v, "hashes", 0, change=flipped)))
        open_page(page, url)
        fails(page, "a hash of the consistency proof")
        page.unroute(consistency)
        open_page(page, url)
        passes(page, "the consistency proof as it is")
        under_way(page, f"{scene.url}/api/pubkey", in_json(lambda v: put(v, "vkey", change=lambda _: scene.other_vkey)))
        open_page(page, url)
        settled(page)
        expect(page.locator("#verify [role=alert]")).to_contain_text("another key")
        assert page.locator("#verify .steps").count() == 0, "it goes on under another key"
        page.get_by_role("button", name="Forget the old key").click()
        fails(page, "records under a key that did not sign them")


def elsewhere_key(scene):
    """The key that the visitor gives beats the one that is served."""
    with chromium(scene) as browser, visitor(browser) as page:
        open_page(page, f"{scene.url}/record/{scene.record}")
        passes(page, "under the served key")
        page.get_by_text("Use a key from elsewhere").click()
        page.get_by_label("The log's verifier key").fill(scene.other_vkey)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#verify [role=alert]")).to_contain_text("another key")
        page.reload()
        settled(page)
        expect(page.locator("#verify [role=alert]")).to_contain_text("another key")


def policy(scene):
    """Witnesses are asked for by the visitor's policy."""
    with chromium(scene) as browser, visitor(browser) as page:
        open_page(page, f"{scene.url}/record/{scene.record}")
        page.get_by_text("Did others see the same log?").click()
        for text, said in ((scene.policy, "Witnessed"), (scene.stranger_policy, "not yet witnessed"), ("nonsense", "no policy")):
            page.get_by_label("A policy").fill(text)
            page.get_by_role("button", name="Ask for these").click()
            expect(page.locator("#verify details .callout:is(.ok, .warn)")).to_contain_text(said)
        assert page.locator("#verify [role=alert]").count() == 0, "too few witnesses are no misbehaviour"


def plain_http(scene):
    """Over plain http from elsewhere, the page says why it can't check."""
    port = scene.url.rsplit(":", 1)[1]
    with chromium(scene, "--host-resolver-rules=MAP log.example.test 127.0.0.1") as browser, visitor(browser) as page:
        page.goto(f"http://log.example.test:{port}/record/{scene.record}")
        assert "plain http" in settled(page)
        assert page.locator("#verify .ok").count() == 0


def files(scene):
    """Receipts, proofs and evidence, dropped or pasted, are judged in the browser."""
    receipt = scene.receipt
    proof = receipt["proof"]
    cases = [
        (json.dumps(receipt), "ok", "is yours"),
        (json.dumps({**receipt, "entry": receipt["entry"].replace('"time":1', '"time":2')}), "bad", "does not verify"),
        (json.dumps({**receipt, "proof": note(proof)}), "bad", "does not verify"),
        (json.dumps({name: receipt[name] for name in receipt if name != "proof"}), "warn", "has no proof"),
        (receipt["receipt"], "warn", "promised an entry"),
        (note(receipt["receipt"]), "bad", "does not verify"),
        (proof, "ok", "stands in the log"),
        (proof_line(2, flipped)(proof), "bad", "does not verify"),
        (proof.split("\n\n", 1)[1], "ok", "signed a checkpoint"),
        (json.dumps(scene.json(f"/api/records/{scene.record}")), "ok", "promised entry"),
        (json.dumps(scene.json(f"/api/wallet/{scene.wallet}")), "ok", "Verified"),
        ("hello", "warn", "Not checked"),
        *((json.dumps(file), look, said) for file, look, said in scene.evidence),
    ]
    with chromium(scene) as browser, visitor(browser) as page:
        open_page(page, f"{scene.url}/check")
        for text, look, said in cases:
            page.get_by_label("Paste it here").fill(text)
            page.get_by_role("button", name="Check", exact=True).click()
            verdict = page.locator("#verify > div > .callout:is(.ok, .bad, .warn)").first
            expect(verdict).to_be_visible()
            found = page.locator("#verify > div").inner_text()
            assert said in found, f"{text[:60]}: {found}"
            assert look in verdict.get_attribute("class").split(), f"{text[:60]}: {found}"
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(receipt, file)
            file.flush()
            page.get_by_label("Or choose a file").set_input_files(file.name)
            expect(page.locator("#verify > div > .callout").first).to_contain_text("is yours")
        assert not page.faults, page.faults


def elsewhere(scene):
    """The line that the page gives runs the verifier that it serves, and no other."""
    with chromium(scene) as browser, visitor(browser) as page:
        open_page(page, f"{scene.url}/check")
        line = page.locator("main .code code").last.inner_text()
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/receipt.json", "w", encoding="utf-8") as file:
            json.dump(scene.receipt, file)
        run = lambda: subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False)
        done = run()
        assert done.returncode == 0 and "openai" in done.stdout, f"{line}: {done.stdout} {done.stderr}"
        with open(f"{folder}/receipt.json", "w", encoding="utf-8") as file:
            json.dump({**scene.receipt, "index": scene.receipt["index"] + 1}, file)
        assert run().returncode != 0, "it takes a wrong index"


def chain(scene):
    """The anchored root is read through a node of the visitor's, and compared."""
    with chromium(scene) as browser, visitor(browser) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        for path in (f"/wallet/{scene.wallet}", f"/record/{scene.record}"):
            open_page(page, scene.url + path)
            passes(page, path)
            page.get_by_text("Is it anchored on a chain?").click()
            page.get_by_label("Chain").select_option("31337")
            page.get_by_label("Node").fill(scene.node)
            assert not any(url.startswith(scene.node) for url in asked), "the node was asked before a click"
            ask_chain(page)
            result = page.locator("#verify details .callout").last
            expect(result).to_contain_text("The chain keeps the history")
            assert page.locator("#verify [role=alert]").count() == 0
            asked.clear()
        # A chain that keeps another root.
        def other(route):
            answer = route.fetch()
            value = answer.json()
            if len(value.get("result", "")) == 2 + 5 * 64:
                value["result"] = altered(value["result"], 2 + 2 * 64 + 10)
            route.fulfill(json=value, headers={"access-control-allow-origin": "*"})
        page.route(scene.node + "/**", other)
        ask_chain(page)
        alarm = page.locator("#verify [role=alert]").first
        expect(alarm).to_contain_text("does not verify")


def ask_chain(page):
    page.get_by_role("button", name="Ask the chain").click()
    until(lambda: page.locator("#verify details .callout:is(.ok, .bad, .warn)").count() > 0, "the chain is not asked")


main({
    "answers": answers, "history": history, "elsewhere_key": elsewhere_key, "policy": policy, "plain_http": plain_http,
    "files": files, "elsewhere": elsewhere, "chain": chain,
})
