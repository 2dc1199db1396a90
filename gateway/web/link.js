// Links a wallet: makes a link token or takes one, has the visitor's wallet
// sign what it agrees to (EIP-1193, EIP-6963), and sends it to this gateway.
//
// Token and credential stay in this page: they are in no address that is asked
// for, in no storage, and go to this gateway alone, in a header.

import { commit, equal, hex, leafHash, openReceipt, parseLogKey } from "./verify.js";

const at = (id) => document.getElementById(id);
const bytesOf = (text) => new TextEncoder().encode(text);
const wallets = new Map(); // by what EIP-6963 calls them; "" is window.ethereum

/** What is about to be signed: its template, and who can sign it. */
let prepared = null;
/** The wallet that is connected, and its account. */
let connected = null;
/** The link token, 32 bytes. */
let token = null;
/** The log's name; and its key, if this browser can verify Ed25519. */
let origin = "";
let logKey = null;

// --- Telling ---------------------------------------------------------------

/** Says how things stand; `kind` is ok, bad, warn or nothing. */
function tell(text, kind = "") {
  const status = at("link-status");
  status.className = `callout ${kind}`;
  status.textContent = text;
  status.hidden = text === "";
}

class Problem extends Error {}

/** What a wallet's error means (EIP-1193, EIP-1474). */
function meaning(error) {
  if (error?.code === 4001) return "You refused in your wallet. Nothing was sent, nothing is public.";
  if (error?.code === 4100) return "Your wallet does not allow this page that. Connect it again.";
  if (error?.code === 4900 || error?.code === 4901) return "Your wallet is not connected to a chain at the moment.";
  if (error?.code === -32002) return "Your wallet already asks you something: look there first.";
  return error?.message ?? String(error);
}

/** Runs what a button does, one at a time, and tells what goes wrong. */
async function run(button, work) {
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    tell(meaning(error), "bad");
  } finally {
    button.disabled = false;
    refresh();
  }
}

const kindOfKey = () => document.querySelector("input[name=kind]:checked").value;

/** Shows what can be done now. */
function refresh() {
  const kind = kindOfKey();
  at("link-credential").hidden = kind !== "credential";
  at("link-given").hidden = kind !== "given";
  at("link-made").hidden = kind !== "new";
  at("wallet-choice").hidden = wallets.size < 2;
  at("wallet-none").hidden = wallets.size > 0;
  at("wallet-connect").disabled = wallets.size === 0;
  at("wallet-sign").disabled = !connected || !prepared;
  at("link-message").hidden = !prepared;
}

// --- The key ---------------------------------------------------------------

const base64url = (bytes) =>
  btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

/** The 32 bytes of 43 characters of base64url. */
function parseToken(text) {
  const form = /^[A-Za-z0-9_-]{43}$/.test(text);
  const bytes = form && Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  // The last character has bits to spare, which say nothing and must be 0.
  if (!form || base64url(bytes) !== text) throw new Problem("A link token is 43 characters of base64url; this is none.");
  return bytes;
}

/** Scheme, bytes and header of the key that shall be linked. */
function chosenKey() {
  const kind = kindOfKey();
  if (kind !== "credential") {
    const bytes = kind === "given" ? parseToken(at("link-token").value.trim()) : token;
    return { scheme: "link", bytes, header: ["x-tally-link", base64url(bytes)], token: base64url(bytes) };
  }
  const provider = at("link-provider").value;
  const credential = at("link-key").value.trim();
  if (/[^\x21-\x7e]/.test(credential) || credential.length < 20) {
    throw new Problem("An API key is at least 20 characters without spaces.");
  }
  const header = {
    anthropic: ["x-api-key", credential],
    gemini: ["x-goog-api-key", credential],
  }[provider] ?? ["authorization", `Bearer ${credential}`];
  return { scheme: provider, bytes: bytesOf(credential), header };
}

const keyId = async (key) =>
  hex(await commit("tallystick/key/v1", bytesOf(origin), bytesOf(key.scheme), key.bytes));

/** Takes a token from behind the address's #, and takes it out there. */
function fromFragment() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  history.replaceState(null, "", location.pathname);
  at("link-token").value = given;
  document.querySelector("input[name=kind][value=given]").checked = true;
}

// --- This gateway ----------------------------------------------------------

async function ask(path, options) {
  const answer = await fetch(path, options);
  const json = await answer.json().catch(() => ({}));
  if (answer.status !== 200) throw new Problem(json.message ?? `The gateway answered ${answer.status}.`);
  return json;
}

/** Fetches the text to sign for an account, and shows it. */
async function prepare(wallet, chain) {
  prepared = null;
  at("link-result").hidden = true;
  const key = chosenKey();
  const id = await keyId(key);
  const template = await ask(`/api/bindings/template?key_id=${id}&wallet=${wallet}&chain_id=${chain}`);
  // It must be about this key, this wallet and this log.
  const lines = template.message.split("\n");
  for (const line of [`- tallystick:log:${origin}`, `- tallystick:key:${id}`, `Chain ID: ${chain}`]) {
    if (!lines.includes(line)) throw new Problem(`The gateway's text does not say "${line}": sign nothing.`);
  }
  if (lines[1].toLowerCase() !== wallet.toLowerCase()) throw new Problem("The gateway's text is for another wallet: sign nothing.");
  prepared = { key, id, template };
  at("link-text").textContent = template.message;
}

/** Sends what was signed; shows the entry if its receipt is right. */
async function bind(signature) {
  const { key, template, id } = prepared;
  const [name, value] = key.header;
  const headers = { "content-type": "application/json", [name]: value };
  const record = await ask("/api/bindings", {
    method: "POST",
    headers,
    body: JSON.stringify({ ...template, signature }),
  });
  prepared = null;
  await check(record, id, template.wallet);
  show(record, key.token);
}

/** A receipt of another entry than this binding's proves that the gateway lies. */
async function check(record, id, wallet) {
  if (!logKey) return;
  const receipt = await openReceipt(record.receipt, logKey);
  const entry = JSON.parse(record.entry);
  const right =
    receipt.index === record.index && equal(receipt.leafHash, await leafHash(record.entry)) &&
    entry.key_id === id && entry.wallet === wallet;
  if (!right) throw new Problem(`The gateway's receipt is not of this binding: keep it. ${record.receipt}`);
}

function show(record, text) {
  tell(logKey ? "" : "This browser can't verify the log's signature on the receipt: check it with the sentinel.", "warn");
  const { wallet } = JSON.parse(record.entry);
  at("result-entry").textContent = record.index;
  at("result-entry").href = `/record/${record.index}`;
  at("result-wallet").textContent = wallet;
  at("result-wallet").href = `/wallet/${wallet}`;
  at("result-receipt").textContent = record.receipt;
  at("result-urls").hidden = text === undefined;
  for (const code of document.querySelectorAll("[data-base]")) {
    code.textContent = code.dataset.base.replace("{token}", text);
  }
  at("link-result").hidden = false;
  at("link-result").focus();
}

// --- Wallets ---------------------------------------------------------------

function found(id, name, provider) {
  if (typeof provider?.request !== "function" || wallets.has(id)) return;
  // Wallets that announce themselves are often window.ethereum, too.
  if (id !== "") forget("");
  wallets.set(id, provider);
  at("wallet").append(new Option(name, id));
  refresh();
}

function forget(id) {
  if (!wallets.delete(id)) return;
  at("wallet").querySelector(`option[value="${id}"]`)?.remove();
}

async function connect() {
  const provider = wallets.get(at("wallet").value) ?? [...wallets.values()][0];
  tell("Look at your wallet: it asks whether this page may see your address.");
  const [account] = await provider.request({ method: "eth_requestAccounts" });
  if (!/^0x[0-9a-f]{40}$/i.test(account ?? "")) throw new Problem("Your wallet names no account.");
  if (connected?.provider !== provider) {
    provider.on?.("accountsChanged", () => changed(provider, "Your wallet is at another account now: connect it again."));
    provider.on?.("chainChanged", () => changed(provider, "Your wallet is on another chain now: connect it again."));
  }
  connected = { provider, account: account.toLowerCase() };
  const chain = Number(await provider.request({ method: "eth_chainId" }));
  if (!Number.isSafeInteger(chain) || chain < 1) throw new Problem("Your wallet is on a chain without a number that can be named.");
  await prepare(connected.account, chain);
  tell(`Connected to ${account} on chain ${chain}. Read the text, then sign it.`, "ok");
}

/** What was prepared is of an account or a chain that the wallet left. */
function changed(provider, text) {
  if (connected?.provider !== provider) return;
  connected = prepared = null;
  tell(text, "warn");
  refresh();
}

async function sign() {
  tell("Look at your wallet: it asks for your signature on this text.");
  const text = "0x" + hex(bytesOf(prepared.template.message));
  const signature = await connected.provider.request({ method: "personal_sign", params: [text, connected.account] });
  tell("Signed. The gateway writes it into the log.");
  await bind(normal(signature));
}

/** r, s and v in lower case; some wallets write v as 0 or 1. */
function normal(signature) {
  const text = String(signature).trim().toLowerCase();
  if (!/^0x[0-9a-f]{130}$/.test(text)) {
    throw new Problem("This signature is not of an account with a key (0x and 130 hex digits). Contract wallets can't be linked on this page.");
  }
  const v = parseInt(text.slice(130), 16);
  return v < 2 ? text.slice(0, 130) + (v + 27).toString(16) : text;
}

// --- By hand ---------------------------------------------------------------

async function prepareByHand() {
  connected = null;
  const wallet = at("hand-wallet").value.trim();
  if (!/^0x[0-9a-f]{40}$/i.test(wallet)) throw new Problem("A wallet's address is 0x and 40 hex digits.");
  await prepare(wallet, 1);
  tell("Sign this text elsewhere as a personal message, then paste the signature.", "ok");
}

async function bindByHand() {
  if (!prepared) throw new Problem("First let the page show the text to sign.");
  await bind(normal(at("hand-signature").value));
}

// --- Beginning -------------------------------------------------------------

async function begin() {
  if (!crypto.subtle) {
    tell("Browsers let pages hash and check only on https and on this machine: open this page there, or use the command below.", "bad");
    return;
  }
  token = crypto.getRandomValues(new Uint8Array(32));
  at("link-new").textContent = base64url(token);
  fromFragment();
  const { vkey } = await ask("/api/pubkey");
  origin = vkey.split("+")[0];
  logKey = await parseLogKey(vkey).catch(() => null);
  const named = origin.split("/")[0];
  if (named !== location.hostname) {
    tell(`The text to sign names this log, ${named}, and you are at ${location.host}: your wallet may warn you of that.`, "warn");
  }
  window.addEventListener("eip6963:announceProvider", ({ detail }) =>
    found(String(detail?.info?.uuid), String(detail?.info?.name), detail?.provider));
  window.dispatchEvent(new Event("eip6963:requestProvider"));
  if (wallets.size === 0) found("", "The browser's wallet", window.ethereum);
  // Some wallets are there a moment later than the page.
  window.addEventListener("ethereum#initialized", () => found("", "The browser's wallet", window.ethereum), { once: true });

  const again = () => {
    prepared = null;
    refresh();
  };
  for (const field of document.querySelectorAll("#link-form input[name=kind], #link-token, #link-key, #link-provider")) {
    field.addEventListener("input", again);
  }
  at("wallet-connect").addEventListener("click", () => run(at("wallet-connect"), connect));
  at("wallet-sign").addEventListener("click", () => run(at("wallet-sign"), sign));
  at("hand-text").addEventListener("click", () => run(at("hand-text"), prepareByHand));
  at("hand-send").addEventListener("click", () => run(at("hand-send"), bindByHand));
  at("link-form").addEventListener("submit", (event) => event.preventDefault());
  at("link-form").hidden = false;
  refresh();
}

begin().catch((error) => tell(meaning(error), "bad"));
