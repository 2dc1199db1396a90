"""A wallet signs on the page that links it: the wallet is ours, the rest is real."""

import re

from coincurve import PrivateKey
from Crypto.Hash import keccak

from browser import chromium, expect, main, open_page, until, visitor

# What a browser's wallet puts into pages (EIP-1193); the key stays in this process.
INJECTED = """
window.ethereum = {
  request: async ({ method, params = [] }) => {
    const { result, error } = await window.testWallet(method, params);
    if (error) throw Object.assign(new Error(error.message), { code: error.code });
    return result;
  },
  on() {},
};
"""


def hashed(data):
    return keccak.new(digest_bits=256, data=data).digest()


class Wallet:
    """An account of one key."""

    def __init__(self, seed):
        self.key = PrivateKey(bytes([seed] * 32))
        self.address = "0x" + hashed(self.key.public_key.format(compressed=False)[1:])[12:].hex()
        self.refuses = False
        self.asked = []

    def request(self, method, params):
        self.asked.append(method)
        if self.refuses and method == "personal_sign":
            return {"error": {"code": 4001, "message": "User rejected the request."}}
        return {"result": {
            "eth_requestAccounts": lambda: [self.address],
            "eth_accounts": lambda: [self.address],
            "eth_chainId": lambda: "0x2105",
            "personal_sign": lambda: self.sign(bytes.fromhex(params[0][2:])),
        }[method]()}

    def sign(self, message):
        """As EIP-191 has it for a person's message."""
        digest = hashed(b"\x19Ethereum Signed Message:\n%d" % len(message) + message)
        signature = self.key.sign_recoverable(digest, hasher=None)
        return "0x" + signature[:64].hex() + f"{27 + signature[64]:02x}"


def link(scene):
    """The page has the wallet sign what becomes public, and the log takes it."""
    wallet = Wallet(77)
    with chromium(scene) as browser, visitor(browser) as page:
        page.expose_function("testWallet", wallet.request)
        page.add_init_script(INJECTED)
        open_page(page, f"{scene.url}/link")
        assert wallet.asked == [], f"the wallet was asked before a click: {wallet.asked}"
        page.locator("#wallet-connect").click()
        shown = page.locator("#link-text")
        expect(shown).to_contain_text("What is published stays public for ever.")
        key_id = re.search(r"tallystick:key:([0-9a-f]{64})", shown.inner_text())[1]
        wallet.refuses = True
        page.locator("#wallet-sign").click()
        expect(page.locator("#link-status")).to_contain_text("refused")
        assert scene.json(f"/api/bindings/{key_id}")["state"] == "free", "bound without a signature"
        wallet.refuses = False
        page.locator("#wallet-sign").click()
        expect(page.locator("#link-result")).to_be_visible()
        until(lambda: scene.json(f"/api/bindings/{key_id}")["wallet"] == wallet.address, "the key is not bound")
        # The address that the page gives counts for the wallet.
        base = page.locator("[data-base]").first.inner_text()
        assert scene.url in base and "/t/" in base, base
        assert not page.faults, page.faults


main({"link": link})
