// Verifies what a Tallystick log signed, a second time: written from
// PROTOCOL.md and the C2SP and RFC texts it names, sharing nothing with the
// Rust code. No dependencies: WebCrypto gives SHA-256 and Ed25519. Runs in
// browsers and in Node 20 or newer. It meets every vector in tests/vectors/.
//
// A function returns what it verified, or throws Refused with the reason.
// Nothing here fetches, keeps state or knows the time: an honest but old
// statement verifies, and a log that shows different people different
// checkpoints is caught only by comparing them, or by witnesses (policies).
//
// Numbers of PROTOCOL.md are at most 2^53 - 1, which a JavaScript number
// holds exactly. Hashes and keys are Uint8Arrays.

/** What is given does not verify, or has not the form it must have. */
export class Refused extends Error {}

function need(holds, why) {
  if (!holds) throw new Refused(why);
}

// --- Bytes and texts -------------------------------------------------------

const bytesOf = (text) => (typeof text === "string" ? new TextEncoder().encode(text) : text);

/** Bytes as text, if they are UTF-8. */
function textOf(bytes) {
  if (typeof bytes === "string") return bytes;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Refused("not UTF-8");
  }
}

function concat(...parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
  return all;
}

export const equal = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);

export const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");

/** Lower-case hex digits as bytes. */
export function unhex(text) {
  need(/^(?:[0-9a-f]{2})*$/.test(text), "not lower-case hex");
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/** Standard padded base64 as bytes; atob alone takes other spellings too. */
export function unbase64(text) {
  need(/^[A-Za-z0-9+/]*={0,2}$/.test(text) && text.length % 4 === 0, "not padded base64");
  const binary = atob(text);
  need(btoa(binary) === text, "base64 with stray bits");
  return Uint8Array.from(binary, (c) => c.charCodeAt(0));
}

export function hashOf(text) {
  const hash = unbase64(text);
  need(hash.length === 32, "not the base64 of 32 bytes");
  return hash;
}

/** A decimal number without sign or leading zeros, at most 2^53 - 1. */
function numberOf(text) {
  const value = /^(?:0|[1-9][0-9]{0,15})$/.test(text ?? "") ? Number(text) : NaN;
  need(Number.isSafeInteger(value), `not a number up to 2^53 - 1: ${text}`);
  return value;
}

const isNumber = (value) => Number.isSafeInteger(value) && value >= 0;

// --- Hashes (PROTOCOL.md section 2) ----------------------------------------

export async function sha256(...parts) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", concat(...parts)));
}

export const leafHash = (entry) => sha256([0], bytesOf(entry));
export const nodeHash = (left, right) => sha256([1], left, right);
const emptyRoot = () => sha256();

/** commit(domain, parts): no two lists of parts give the same input. */
export function commit(domain, ...parts) {
  const framed = parts.flatMap((part) => [new Uint8Array(4), part]);
  for (let i = 0; i < framed.length; i += 2) {
    new DataView(framed[i].buffer).setUint32(0, framed[i + 1].length);
  }
  return sha256(bytesOf(domain), [0], ...framed);
}

// --- Ed25519 (section 3) ---------------------------------------------------
// WebCrypto verifies the equation. What implementations judge differently is
// judged here, before: which keys are admitted, and how R and S are written.
// Points are [X, Y, Z, T] with x = X/Z, y = Y/Z, T = XY/Z (RFC 8032 section
// 5.1.4), whose addition has no exceptions.

const P = 2n ** 255n - 19n;
const L = 2n ** 252n + 27742317777372353535851937790883648493n;
const mod = (n) => ((n % P) + P) % P;

function power(base, exponent) {
  let result = 1n;
  for (; exponent > 0n; exponent >>= 1n) {
    if (exponent & 1n) result = (result * base) % P;
    base = (base * base) % P;
  }
  return result;
}

const D = mod(-121665n * power(121666n, P - 2n));
const ROOT_OF_MINUS_ONE = power(2n, (P - 1n) / 4n);
const NEUTRAL = [0n, 1n, 1n, 0n];

const littleEndian = (bytes) => BigInt("0x" + hex(Uint8Array.from(bytes).reverse()));

/** The point that 32 bytes encode; null if the encoding is not canonical or no point's. */
function decompress(bytes) {
  const encoded = littleEndian(bytes);
  const sign = encoded >> 255n;
  const y = encoded & (2n ** 255n - 1n);
  if (y >= P) return null;
  const xx = mod((y * y - 1n) * power(D * y * y + 1n, P - 2n));
  let x = power(xx, (P + 3n) / 8n);
  if (mod(x * x) !== xx) x = mod(x * ROOT_OF_MINUS_ONE);
  if (mod(x * x) !== xx || (x === 0n && sign === 1n)) return null;
  if ((x & 1n) !== sign) x = P - x;
  return [x, y, 1n, mod(x * y)];
}

function add([x1, y1, z1, t1], [x2, y2, z2, t2]) {
  const a = mod((y1 - x1) * (y2 - x2));
  const b = mod((y1 + x1) * (y2 + x2));
  const c = mod(2n * D * t1 * t2);
  const d = mod(2n * z1 * z2);
  const [e, f, g, h] = [b - a, d - c, d + c, b + a];
  return [mod(e * f), mod(g * h), mod(f * g), mod(e * h)];
}

function isNeutralTimes(n, point) {
  let sum = NEUTRAL;
  for (; n > 0n; n >>= 1n) {
    if (n & 1n) sum = add(sum, point);
    point = add(point, point);
  }
  return sum[0] === 0n && sum[1] === sum[2];
}

/**
 * Admits an Ed25519 public key: canonical, not of small order, torsion-free.
 * Does not say whose key it is.
 */
export async function admitKey(bytes) {
  need(bytes.length === 32, "an Ed25519 key has 32 bytes");
  const point = decompress(bytes);
  need(point, "the key is no canonical encoding of a point");
  need(!isNeutralTimes(8n, point), "the key is of small order");
  need(isNeutralTimes(L, point), "the key has a torsion component");
  return crypto.subtle.importKey("raw", bytes, { name: "Ed25519" }, false, ["verify"]);
}

/**
 * Whether a signature by an admitted key is valid: S < L, R canonical and not
 * of small order, and the equation holds without cofactor.
 */
export async function verifySignature(key, message, signature) {
  if (signature.length !== 64) return false;
  const [r, s] = [signature.subarray(0, 32), signature.subarray(32)];
  if (littleEndian(s) >= L) return false;
  const point = decompress(r);
  if (!point || isNeutralTimes(8n, point)) return false;
  return crypto.subtle.verify({ name: "Ed25519" }, key, signature, message);
}

// --- Keys (section 3, C2SP signed-note and tlog-cosignature) ---------------

const LOG_KEY = 0x01; // Ed25519 over a note's text
const COSIGNER_KEY = 0x04; // Ed25519 over a note's text and a time
const FIXED_HASH = [LOG_KEY, COSIGNER_KEY, 0x06 /* ML-DSA-44 cosignatures */];

export function isOrigin(text) {
  const label = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?";
  const form = new RegExp(`^${label}(?:\\.${label})+(?:/[A-Za-z0-9._~-]+)*$`);
  return text.length <= 100 && form.test(text);
}

const isKeyName = (text) => text !== "" && !/[+\p{White_Space}\x00-\x1f\x7f]/u.test(text);

/** Takes `<name>+<hash>+<base64(type || key)>` apart. Does not admit the key. */
async function parseVkey(text) {
  const [, name, hash, material] = /^([^+]*)\+([0-9a-f]{8})\+([^]*)$/.exec(text) ?? [];
  need(name !== undefined && isKeyName(name), "not a verifier key");
  const blob = unbase64(material);
  need(blob.length > 0, "a verifier key without a type");
  if (FIXED_HASH.includes(blob[0])) {
    const digest = await sha256(bytesOf(name), [0x0a], blob);
    need(hex(digest.subarray(0, 4)) === hash, "the key hash is of another name or key");
  }
  return { name, hash, type: blob[0], material: blob.subarray(1) };
}

/** A log's verifier key. Where it came from is for the caller to judge. */
export async function parseLogKey(text) {
  const vkey = await parseVkey(text);
  need(vkey.type === LOG_KEY, "a log's key is of type 0x01");
  need(isOrigin(vkey.name), "a log's key is named by an origin");
  return { ...vkey, key: await admitKey(vkey.material) };
}

/** A witness's verifier key. Of a type other than 0x04 `key` is null: it never counts. */
export async function parseCosignerKey(text) {
  const vkey = await parseVkey(text);
  need(vkey.type !== LOG_KEY, "a witness's key is not of type 0x01");
  return { ...vkey, key: vkey.type === COSIGNER_KEY ? await admitKey(vkey.material) : null };
}

// --- Notes (section 6, C2SP signed-note) -----------------------------------

/** Takes a note apart. Verifies nothing: its text must not be used yet. */
export function parseNote(note) {
  const bytes = bytesOf(note);
  need(bytes.length <= 65536, "a note of more than 65,536 bytes");
  const all = textOf(bytes);
  need(!/[\x00-\x09\x0b-\x1f\x7f]/.test(all), "a control character in a note");
  const split = all.lastIndexOf("\n\n");
  need(split > 0 && all.endsWith("\n"), "not a signed note");
  const text = all.slice(0, split + 1);
  const lines = all.slice(split + 2, -1).split("\n");
  need(lines.length <= 64, "a note with more than 64 signature lines");
  const signatures = lines.map((line) => {
    const [, name, base64] = /^\u2014 ([^ ]*) ([^]*)$/.exec(line) ?? [];
    need(name !== undefined && isKeyName(name), "a line that is no signature");
    const blob = unbase64(base64);
    need(blob.length > 4, "a signature line without a signature");
    return { name, hash: hex(blob.subarray(0, 4)), signature: blob.subarray(4) };
  });
  return { text, signatures };
}

const linesOf = (note, { name, hash }) =>
  note.signatures.filter((line) => line.name === name && line.hash === hash);

/**
 * The text of a note that the log's key signed. Lines of other keys are
 * ignored, cosignatures among them. Does not say what the text means.
 */
export async function openNote(note, logKey) {
  const parsed = parseNote(note);
  const lines = linesOf(parsed, logKey);
  need(lines.length > 0, "the log's key did not sign it");
  for (const { signature } of lines) {
    const valid = await verifySignature(logKey.key, bytesOf(parsed.text), signature);
    need(valid, "the log's signature does not verify");
  }
  return parsed.text;
}

/** Lines of a text in which each line, the last one too, ends in a newline. */
function exactLines(text, count) {
  const lines = text.split("\n");
  need(lines.length === count + 1 && lines[count] === "", `not exactly ${count} lines`);
  return lines;
}

/**
 * What a checkpoint says: the root of the log's first `size` entries. Does not
 * check that it is the newest, nor that others were shown the same one.
 */
export async function openCheckpoint(note, logKey) {
  const [origin, size, root] = exactLines(await openNote(note, logKey), 3);
  need(origin === logKey.name, "a checkpoint of another log");
  return { origin, size: numberOf(size), root: hashOf(root) };
}

/**
 * What a receipt promises: an entry's leaf hash at an index. Does not check
 * that the log keeps the promise; a proof in a receipt file shows that.
 */
export async function openReceipt(note, logKey) {
  const [head, origin, index, leaf] = exactLines(await openNote(note, logKey), 4);
  need(head === "tallystick/receipt/v1" && origin === logKey.name, "not a receipt of this log");
  return { origin, index: numberOf(index), leafHash: hashOf(leaf) };
}

// --- Proofs (section 5.1, RFC 9162 section 2.1) ----------------------------
// Sizes of one shape lead through the same hashes, so a proof does not bind
// the sizes by itself: take both from checkpoints that were opened.

/** Climbs from node `fn` of a tree whose last node is `sn`; `step(sibling, onLeft)` hashes. */
async function climb(fn, sn, path, step) {
  for (const sibling of path) {
    need(sn > 0n, "a proof with too many hashes");
    const onLeft = (fn & 1n) === 1n || fn === sn;
    await step(sibling, onLeft);
    if (onLeft) while ((fn & 1n) === 0n && fn !== 0n) [fn, sn] = [fn >> 1n, sn >> 1n];
    [fn, sn] = [fn >> 1n, sn >> 1n];
  }
  need(sn === 0n, "a proof with too few hashes");
}

/** Verifies that a leaf is at `index` under `root` (RFC 9162 section 2.1.3.2). */
export async function verifyInclusion(leaf, index, size, root, path) {
  need(isNumber(index) && isNumber(size) && index < size, "no such index in the tree");
  let hash = leaf;
  await climb(BigInt(index), BigInt(size) - 1n, path, async (sibling, onLeft) => {
    hash = await (onLeft ? nodeHash(sibling, hash) : nodeHash(hash, sibling));
  });
  need(equal(hash, root), "the proof leads to another root");
}

/**
 * Verifies that the tree (from, fromRoot) is the beginning of the tree
 * (to, toRoot) (RFC 9162 section 2.1.4.2). Everything begins with the empty
 * tree: a proof from 0 says nothing of `toRoot`.
 */
export async function verifyConsistency(from, fromRoot, to, toRoot, proof) {
  need(isNumber(from) && isNumber(to) && from <= to, "sizes do not ascend");
  if (from === 0 || from === to) {
    need(proof.length === 0, "a proof with too many hashes");
    need(equal(fromRoot, from === 0 ? await emptyRoot() : toRoot), "another older root");
    return;
  }
  let [fn, sn] = [BigInt(from) - 1n, BigInt(to) - 1n];
  while (fn & 1n) [fn, sn] = [fn >> 1n, sn >> 1n];
  const perfect = fn === 0n; // then the older root is itself the path's first node
  need(perfect || proof.length > 0, "a proof with too few hashes");
  let older = perfect ? fromRoot : proof[0];
  let newer = older;
  await climb(fn, sn, perfect ? proof : proof.slice(1), async (sibling, onLeft) => {
    if (onLeft) older = await nodeHash(sibling, older);
    newer = await (onLeft ? nodeHash(sibling, newer) : nodeHash(newer, sibling));
  });
  need(equal(older, fromRoot), "the proof begins from another older root");
  need(equal(newer, toRoot), "the proof leads to another root");
}

// --- Offline proofs (section 7.1, C2SP tlog-proof) -------------------------

/** Takes a tlog-proof apart. Verifies nothing. */
export function parseTlogProof(proof) {
  const bytes = bytesOf(proof);
  need(bytes.length <= 1 << 20, "a tlog-proof of more than 1 MiB");
  const text = textOf(bytes);
  const split = text.indexOf("\n\n");
  need(split > 0, "no empty line before the checkpoint");
  const [head, ...lines] = text.slice(0, split).split("\n");
  need(head === "c2sp.org/tlog-proof@v1", "not a tlog-proof of version 1");
  const extra = lines[0]?.startsWith("extra ") ? unbase64(lines.shift().slice(6)) : null;
  const index = lines.shift() ?? "";
  need(index.startsWith("index "), "no index line");
  need(lines.length <= 53, "a path of more than 53 hashes");
  const path = lines.map(hashOf);
  return { extra, index: numberOf(index.slice(6)), path, checkpoint: text.slice(split + 2) };
}

/**
 * Verifies that the log holds the entry of this leaf hash, and returns index
 * and checkpoint. Does not look at cosignatures (see `judge`); nothing
 * authenticates `extra`.
 */
export async function verifyTlogProof(text, leaf, logKey) {
  const proof = parseTlogProof(text);
  const checkpoint = await openCheckpoint(proof.checkpoint, logKey);
  await verifyInclusion(leaf, proof.index, checkpoint.size, checkpoint.root, proof.path);
  return { index: proof.index, checkpoint, note: proof.checkpoint };
}

// --- Cosignatures (section 6.1, C2SP tlog-cosignature) ---------------------

/**
 * The newest time (seconds since 1970) at which a witness cosigned a note's
 * text, or null. Does not check that the log signed the note, nor that the
 * time is recent.
 */
export async function cosignedAt(note, cosignerKey) {
  const parsed = parseNote(note);
  let newest = null;
  for (const { signature } of cosignerKey.key ? linesOf(parsed, cosignerKey) : []) {
    need(signature.length === 72, "a cosignature of another length");
    const big = new DataView(signature.buffer, signature.byteOffset).getBigUint64(0);
    need(big <= BigInt(Number.MAX_SAFE_INTEGER), "a cosignature of a time that no clock shows");
    const message = bytesOf(`cosignature/v1\ntime ${big}\n${parsed.text}`);
    const valid = await verifySignature(cosignerKey.key, message, signature.subarray(8));
    need(valid, `the cosignature by ${cosignerKey.name} does not verify`);
    newest = Math.max(newest ?? 0, Number(big));
  }
  return newest;
}

// --- Policies (section 6.2, C2SP tlog-policy) ------------------------------

/** Parses a policy: logs, witnesses, and `isMet(set of places in witnesses)`. */
export async function parsePolicy(policy) {
  // One character for each byte: names are opaque.
  const bytes = bytesOf(policy);
  need(bytes.length <= 1 << 20, "a policy of more than 1 MiB");
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  need(text.endsWith("\n"), "the policy's last line has no newline");
  const logs = [];
  const witnesses = [];
  const nodes = new Map(); // name: whether it is met, given who cosigned
  const members = new Set();
  let quorum = null;

  const vkeyText = (word) => textOf(Uint8Array.from(word, (c) => c.charCodeAt(0)));
  const addKey = (list, item) => {
    const known = list.some((other) => equal(other.material, item.material));
    need(!known, "a key that stands on an earlier line");
    list.push(item);
  };
  const define = (name, met) => {
    need(name !== "none" && !nodes.has(name), `the name ${name} is taken`);
    nodes.set(name, met);
  };
  const find = (name) => nodes.get(name) ?? need(false, `no earlier line defines ${name}`);

  for (const line of text.slice(0, -1).split("\n")) {
    need(!/[\x00-\x08\x0b-\x1f\x7f]/.test(line), "a control character in a policy");
    const words = line.split(/[ \t]+/).filter((word) => word !== "");
    const [kind, name, third, ...rest] = words;
    if (kind === undefined || kind.startsWith("#")) continue;
    if (kind === "log" && (words.length === 2 || words.length === 3)) {
      const vkey = await parseVkey(vkeyText(name));
      if (vkey.type === LOG_KEY) await admitKey(vkey.material);
      addKey(logs, { ...vkey, url: third });
    } else if (kind === "witness" && (words.length === 3 || words.length === 4)) {
      const place = witnesses.length;
      addKey(witnesses, { ...(await parseCosignerKey(vkeyText(third))), label: name, url: rest[0] });
      define(name, (cosigned) => cosigned.has(place));
    } else if (kind === "group" && rest.length > 0) {
      const words = { all: rest.length, any: 1 };
      const k = Object.hasOwn(words, third) ? words[third] : numberOf(third);
      need(k >= 1 && k <= rest.length, "a threshold that is no number of members");
      const parts = rest.map(find);
      for (const member of rest) {
        need(!members.has(member), `${member} is a member already`);
        members.add(member);
      }
      define(name, (cosigned) => parts.filter((met) => met(cosigned)).length >= k);
    } else if (kind === "quorum" && words.length === 2) {
      need(quorum === null, "a second quorum line");
      quorum = name === "none" ? () => true : find(name);
    } else {
      need(false, "a line that is no log, witness, group or quorum");
    }
  }
  need(quorum !== null, "the policy has no quorum line");
  return { logs, witnesses, isMet: quorum };
}

/** Whether a policy accepts a log: it lists the key, or lists none at all. */
export const acceptsLog = (policy, logKey) =>
  policy.logs.length === 0 ||
  policy.logs.some((log) => log.type === LOG_KEY && log.name === logKey.name && equal(log.material, logKey.material));

/**
 * Who of a policy's witnesses cosigned a note, as [place, time], and whether
 * that is its quorum. Does not check the log's own signature (open the
 * checkpoint first), nor how old the cosignatures are.
 */
export async function judge(policy, note) {
  const by = [];
  for (const [place, witness] of policy.witnesses.entries()) {
    const time = await cosignedAt(note, witness);
    if (time !== null) by.push([place, time]);
  }
  return { by, quorum: policy.isMet(new Set(by.map(([place]) => place))) };
}

// --- Entries (section 4) ---------------------------------------------------

const HEX64 = /^[0-9a-f]{64}$/;
const ADDRESS = /^0x[0-9a-f]{40}$/;
const NAME = /^[ !#-[\]-~]{1,128}$/; // 0x20 to 0x7E without " and \
const isText = (form) => (value) => typeof value === "string" && form.test(value);
const isCount = (value) => isNumber(value) && value < 2 ** 32;

const COUNTS = ["input", "cache_read", "cache_write", "output", "reasoning"];
const FIELDS = {
  usage: {
    receipt: isText(HEX64),
    key_id: isText(HEX64),
    wallet: isText(ADDRESS),
    link: isText(/^(?:claimed|bound)$/),
    source: isText(/^(?:proxy|custom)$/),
    provider: isText(NAME),
    model: isText(NAME),
    ...Object.fromEntries(COUNTS.map((name) => [name, isCount])),
    outcome: isText(/^(?:complete|aborted|partial|unmetered|unknown)$/),
    flag: isText(/^inconsistent$/),
    response: isText(HEX64),
  },
  log: {
    origin: (value) => typeof value === "string" && isOrigin(value),
    vkey: (value) => typeof value === "string",
    rules: isNumber,
    totals_interval: isNumber,
    publish_max: isNumber,
    evm_key: isText(ADDRESS),
  },
  totals: { size: (value) => isNumber(value) && value > 0, count: isNumber, root: isText(HEX64) },
  anchor: { chain_id: (value) => isNumber(value) && value > 0, contract: isText(ADDRESS) },
};

/**
 * An entry's fields, if it is canonical: written again, it gives the same
 * bytes. Of a kind or version that is not known here only version, kind and
 * time, and `known` is false. Does not check the entry against others: order
 * of times, that entry 0 is the only `log`, that `bound` has a binding. Of a
 * binding nothing but the head is read here.
 */
export async function parseEntry(entry) {
  const text = textOf(entry);
  need(text.length <= 65535 && /^[ -~]+$/.test(text), "an entry of other bytes or too many");
  const head = /^\{"v":([0-9]+),"kind":"([a-z0-9_-]{1,32})","time":([0-9]+)(?:,.*)?\}$/.exec(text);
  need(head, "an entry without its head");
  const [v, kind, time] = [numberOf(head[1]), head[2], numberOf(head[3])];
  if (v !== 1 || !Object.hasOwn(FIELDS, kind)) return { known: false, v, kind, time };

  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Refused("an entry that is no JSON");
  }
  let written = `{"v":1,"kind":"${kind}","time":${time}`;
  for (const [name, holds] of Object.entries(FIELDS[kind])) {
    if (!Object.hasOwn(value, name)) continue;
    need(holds(value[name]), `the field ${name} holds what it may not`);
    written += `,"${name}":` + (typeof value[name] === "number" ? value[name] : `"${value[name]}"`);
  }
  need(`${written}}` === text, "an entry that is not canonical");
  await { log: checkLog, usage: checkUsage, totals: checkAll, anchor: checkAll }[kind](value);
  return { known: true, ...value };
}

async function checkAll(entry) {
  const fields = Object.keys(FIELDS[entry.kind]);
  for (const name of fields) need(Object.hasOwn(entry, name), `no ${name}`);
}

async function checkLog(entry) {
  await checkAll(entry);
  const key = await parseLogKey(entry.vkey);
  need(key.name === entry.origin, "the vkey is of another origin");
}

async function checkUsage(entry) {
  const has = (name) => Object.hasOwn(entry, name);
  for (const name of ["receipt", "source", "provider", "outcome"]) need(has(name), `no ${name}`);
  need(has("wallet") === has("link"), "wallet and link stand together");
  const { input = 0, cache_read = 0, cache_write = 0, output = 0, reasoning = 0 } = entry;
  const counted = COUNTS.some(has);
  const exceeds = cache_read + cache_write > input || reasoning > output;
  need(has("flag") ? counted : !exceeds, "the flag stands where it must not, or not where it must");
  if (["unmetered", "unknown"].includes(entry.outcome)) need(!counted, "counts where none may be");
  if (entry.outcome === "complete") need(has("input") || has("output"), "complete without counts");
}

// --- Receipt files (section 7) ---------------------------------------------

/**
 * Verifies a receipt file, the object that /api/receipts/{id} answers: the log
 * promised this usage entry at this index, and the entry is this id's own.
 * With `proof` in the file (?proof=1) also that the log kept the promise under
 * the checkpoint that is returned; else `checkpoint` is null, and only the log
 * can show that it holds the entry. Pass the returned `note` to `judge` to
 * learn which witnesses saw that checkpoint. Does not check that the counts
 * are what the provider said.
 */
export async function openReceiptFile(file, logKey) {
  const { id, index, leaf_hash, entry, receipt, proof } = file;
  need([id, leaf_hash, entry, receipt].every((t) => typeof t === "string"), "not a receipt file");
  const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
  need(uuid.test(id), "the id is no UUID of version 7");
  const promised = await openReceipt(receipt, logKey);
  const leaf = await leafHash(entry);
  need(equal(leaf, promised.leafHash), "the receipt is for another entry");
  need(hex(leaf) === leaf_hash && promised.index === index, "index or leaf_hash differ from the receipt");
  const usage = await parseEntry(entry);
  need(usage.known && usage.kind === "usage", "the entry is not of kind usage");
  const commitment = await commit("tallystick/receipt-id/v1", unhex(id.replaceAll("-", "")));
  need(usage.receipt === hex(commitment), "the entry is another call's: it commits to another id");
  if (proof === undefined) return { usage, index, checkpoint: null, note: null };
  need(typeof proof === "string", "the proof is no text");
  const held = await verifyTlogProof(proof, leaf, logKey);
  need(held.index === index, "the proof is of another index");
  return { usage, index, checkpoint: held.checkpoint, note: held.note };
}

// --- Wallets (sections 4.4 and 4.5) ----------------------------------------

/**
 * Verifies the `proof` that /api/wallet/{addr} answers, and returns the
 * wallet's leaves (none: it has no bound usage), the totals entry (null: there
 * is none yet) and the checkpoint; numbers of a leaf are BigInts. Pass the
 * proof's checkpoint to `judge`: that the totals entry's root is right is for
 * witnesses to say that read every entry. `wallet` is in lower case.
 */
export async function verifyWallet(wallet, proof, logKey) {
  need(ADDRESS.test(wallet), "not a wallet's address in lower case");
  const { totals, next, leaves } = proof;
  const checkpoint = await openCheckpoint(proof.checkpoint, logKey);
  const { size, root } = checkpoint;
  const read = async ({ index, entry, hashes }, place) => {
    need(index === place && typeof entry === "string", "an entry that stands elsewhere");
    await verifyInclusion(await leafHash(entry), index, size, root, hashes.map(hashOf));
    return parseEntry(entry);
  };
  const log = await read(proof.log, 0);
  need(log.known && log.kind === "log" && log.rules === 2, "entry 0 is no log's of rules 2");
  const { name, material } = await parseLogKey(log.vkey);
  need(name === logKey.name && equal(material, logKey.material), "entry 0 names another key");
  const last = await read(proof.last, size - 1);
  const sum = totals && (await read(totals, totals.index));
  need(!sum || (sum.known && sum.kind === "totals" && sum.size <= totals.index), "not a totals entry");
  need(sum || leaves.length === 0, "leaves without a totals entry");
  const own = sum ? await ownLeaves(wallet, leaves, sum) : [];
  const from = sum ? sum.size + (sum.size === totals.index ? 1 : 0) : 1;
  need((next === null) === (from >= size), "the first entry that the totals leave out is missing");
  if (next) {
    const { v, kind, time } = await read(next, from);
    const waits = v === 1 && ["usage", "binding"].includes(kind) && !(last.known && last.kind === "totals");
    need(!waits || last.time <= time + 2 * log.totals_interval, "misbehaviour: a totals entry is overdue");
  }
  return { leaves: own, totals: sum, checkpoint };
}

/** All leaves of a wallet: the proof also shows its neighbours, or the ends. */
async function ownLeaves(wallet, leaves, { count, root }) {
  if (leaves.length === 0) {
    need(count === 0 && root === hex(await emptyRoot()), "no leaves of a tree that has some");
    return [];
  }
  const read = [];
  for (const [i, { index, leaf, hashes }] of leaves.entries()) {
    need(index === leaves[0].index + i, "leaves with a gap");
    await verifyInclusion(await leafHash(unhex(leaf)), index, count, unhex(root), hashes.map(hashOf));
    read.push(parseLeaf(leaf));
  }
  const order = leaves.map(({ leaf }) => leaf.slice(2, 44));
  need(order.every((one, i) => i === 0 || order[i - 1] < one), "leaves that do not ascend");
  const before = read.filter((leaf) => leaf.wallet < wallet).length;
  const after = read.filter((leaf) => leaf.wallet > wallet).length;
  need(before === 1 || (before === 0 && leaves[0].index === 0), "not the neighbour before, or too many");
  need(after === 1 || (after === 0 && leaves.at(-1).index === count - 1), "not the one after, or too many");
  return read.filter((leaf) => leaf.wallet === wallet);
}

/** Reads a leaf of the totals tree from hex. */
export function parseLeaf(leaf) {
  const bytes = unhex(leaf);
  need(bytes.length === 86 && bytes[0] === 1 && [1, 2].includes(bytes[21]), "not a leaf");
  const view = new DataView(bytes.buffer);
  const number = (i) => view.getBigUint64(22 + 8 * i);
  const [records, input, output, cache_read, cache_write, reasoning, first, last] =
    Array.from({ length: 8 }, (_, i) => number(i));
  const room = first <= last && last < 2n ** 53n && records >= 1n && records <= last - first + 1n;
  need(room && (records === 1n) === (first === last), "a leaf of more or fewer records than can be");
  const [address, source] = ["0x" + leaf.slice(2, 42), ["proxy", "custom"][bytes[21] - 1]];
  return { wallet: address, source, records, input, output, cache_read, cache_write, reasoning, first, last };
}
