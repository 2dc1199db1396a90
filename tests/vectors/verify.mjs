// Holds gateway/web/verify.js, and what chain.js adds to it, to the vectors
// beside this file, under Node:
//
//     node verify.mjs
//
// Each group of each file has one consumer here, or stands among those that
// are not a verifier's subject; a file or group without either is a failure.

import { readdirSync, readFileSync } from "node:fs";
import { contractAddress } from "../../gateway/web/chain.js";
import * as v from "../../gateway/web/verify.js";

/** Groups that say what a log or a witness makes, not what a verifier checks. */
const NOT_A_VERIFIERS = {
  "anchors.json": ["checkpoints", "retirements", "signatures_bad"],
  "bindings.json": ["good", "invalid", "malformed", "histories", "histories_broken"],
  "bundles.json": ["good", "bad"],
  "cosignatures.json": ["cosigned"],
  "credentials.json": ["cases"],
  "hashes.json": ["key_ids"],
  "log.json": ["served", "answers"],
  "notes.json": ["sealed"],
  "paths.json": ["good", "bad"],
  "trees.json": ["roots", "tiles"],
  "witness.json": [
    "requests_good", "requests_bad", "conflicts_good", "conflicts_bad", "answers_good", "answers_bad",
  ],
};

/** The bytes of a field that is written as text, in hex, or as runs of hex. */
function bytes(of, name) {
  if (typeof of[name] === "string") return new TextEncoder().encode(of[name]);
  if (of[`${name}_hex`] !== undefined) return v.unhex(of[`${name}_hex`]);
  return v.unhex(of[`${name}_runs`].map(([run, times]) => run.repeat(times)).join(""));
}

const hash = (text) => v.unhex(text);
const hashes = (list) => list.map(hash);
const logKey = (c) => v.parseLogKey(c.vkey);
const utf8 = (text) => new TextEncoder().encode(text);
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** Refused: for the stated reason's sake only, never by another error. */
const refused = (run) => async (c) => {
  try {
    await run(c);
  } catch (error) {
    if (error instanceof v.Refused) return true;
    throw error;
  }
  return false;
};

const inclusion = (c) => v.verifyInclusion(hash(c.leaf), c.index, c.size, hash(c.root), hashes(c.proof));
const consistency = (c) => v.verifyConsistency(c.from, hash(c.from_root), c.to, hash(c.to_root), hashes(c.proof));
const policy = (c) => v.parsePolicy(bytes(c, "policy"));
const receiptFile = async (c) => v.openReceiptFile(c.file, await logKey(c));
const holds = (run) => async (c) => (await run(c), true);

const creation = readFileSync(new URL("../../anchor/contract/creation.hex", import.meta.url), "utf8").trim();

const CONSUMERS = {
  "anchors.json": {
    logs: async (c) => contractAddress(await logKey(c), c.evm_key, creation) === c.contract,
  },
  "hashes.json": {
    receipts: async (c) =>
      v.hex(await v.commit("tallystick/receipt-id/v1", v.unhex(c.id.replaceAll("-", "")))) === c.commitment,
    responses: async (c) =>
      v.hex(await v.commit("tallystick/response-id/v1", utf8(c.provider), utf8(c.id))) === c.commitment,
    leaves: async (c) => v.hex(await v.leafHash(bytes(c, "entry"))) === c.leaf_hash,
    nodes: async (c) => v.hex(await v.nodeHash(hash(c.left), hash(c.right))) === c.node,
  },
  "keys.json": {
    origins_good: async (c) => v.isOrigin(c.origin),
    origins_bad: async (c) => !v.isOrigin(c.origin),
    vkeys_good: async (c) => {
      const key = await logKey(c);
      return key.name === c.origin && v.hex(key.material) === c.public;
    },
    vkeys_bad: refused(logKey),
    points_good: holds((c) => v.admitKey(hash(c.public))),
    points_bad: refused((c) => v.admitKey(hash(c.public))),
  },
  "signatures.json": {
    verdicts: async (c) =>
      (await v.verifySignature((await logKey(c)).key, bytes(c, "message"), v.unhex(c.signature))) === c.valid,
  },
  "notes.json": {
    notes_good: async (c) => v.equal(utf8(await v.openNote(bytes(c, "note"), await logKey(c))), bytes(c, "text")),
    notes_bad: refused(async (c) => v.openNote(bytes(c, "note"), await logKey(c))),
    checkpoints_good: async (c) => {
      const { size, root } = await v.openCheckpoint(bytes(c, "note"), await logKey(c));
      return size === c.size && v.hex(root) === c.root;
    },
    checkpoints_bad: refused(async (c) => v.openCheckpoint(bytes(c, "note"), await logKey(c))),
    receipts_good: async (c) => {
      const { index, leafHash } = await v.openReceipt(bytes(c, "note"), await logKey(c));
      return index === c.index && v.hex(leafHash) === c.leaf_hash;
    },
    receipts_bad: refused(async (c) => v.openReceipt(bytes(c, "note"), await logKey(c))),
  },
  "entries.json": {
    log_good: async (c) => knownEntry(c),
    usage_good: async (c) => knownEntry(c),
    anchor_good: async (c) => knownEntry(c),
    unknown: async (c) => {
      const { known, v: version, kind, time } = await v.parseEntry(bytes(c, "entry"));
      return !known && version === c.version && kind === c.kind && time === c.time;
    },
    bad: refused((c) => v.parseEntry(bytes(c, "entry"))),
  },
  "proofs.json": {
    inclusion_good: holds(inclusion),
    inclusion_bad: refused(inclusion),
    consistency_good: holds(consistency),
    consistency_bad: refused(consistency),
  },
  "tlog_proofs.json": {
    good: async (c) => {
      const { extra, path } = v.parseTlogProof(c.text);
      const { index, checkpoint } = await v.verifyTlogProof(c.text, hash(c.leaf), await logKey(c));
      return (
        index === c.index && checkpoint.size === c.size && v.hex(checkpoint.root) === c.root &&
        same(path.map(v.hex), c.proof) && same(extra && btoa(String.fromCharCode(...extra)), c.extra)
      );
    },
    forms_bad: refused(async (c) => v.parseTlogProof(c.text)),
    unproven: refused(async (c) => v.verifyTlogProof(c.text, hash(c.leaf), await logKey(c))),
  },
  "cosignatures.json": {
    keys_good: async (c) => {
      const key = await v.parseCosignerKey(c.vkey);
      return key.name === c.name && key.key !== null;
    },
    keys_other: async (c) => (await v.parseCosignerKey(c.vkey)).key === null,
    keys_bad: refused((c) => v.parseCosignerKey(c.vkey)),
    verdicts: async (c) => (await v.cosignedAt(c.note, await v.parseCosignerKey(c.vkey))) === c.time,
    spoilt: refused(async (c) => v.cosignedAt(c.note, await v.parseCosignerKey(c.vkey))),
  },
  "policies.json": {
    good: async (c) => {
      const { witnesses, isMet } = await policy(c);
      const met = c.sets.every((set) => isMet(new Set(set.cosigned)) === set.met);
      return witnesses.length === c.witnesses && met;
    },
    bad: refused(policy),
    judged: async (c) => {
      const judged = async () => v.judge(await policy(c), c.note);
      if (c.by === null) return refused(judged)(c);
      const { by, quorum } = await judged();
      return same(by, c.by) && quorum === c.quorum;
    },
    logs: async (c) => v.acceptsLog(await policy(c), await logKey(c)) === c.accepted,
  },
  "totals.json": {
    leaves: leafHolds,
    leaves_bad: refused(async (c) => v.parseLeaf(c.leaf)),
    entries: async (c) => {
      const { known, size, count, root } = await v.parseEntry(c.entry);
      return known && size === c.size && count === c.count && root === c.root;
    },
    entries_bad: refused((c) => v.parseEntry(c.entry)),
    proofs: async (c) => {
      const { leaves } = await v.verifyWallet(c.wallet, c.proof, await logKey(c));
      return same(leaves.map((leaf) => String(leaf.records)), c.leaves.map((leaf) => String(v.parseLeaf(leaf).records)));
    },
    proofs_bad: refused(async (c) => v.verifyWallet(c.wallet, c.proof, await logKey(c))),
  },
  "log.json": {
    facts: async (c) => (await logKey(c)).name === c.origin,
    entries: async (c) =>
      v.hex(await v.leafHash(c.entry)) === c.leaf_hash && (await v.parseEntry(c.entry)).known,
    receipts: async (c) => (await receiptFile(c)).checkpoint === null,
    receipts_proven: async (c) => (await receiptFile(c)).checkpoint.size > c.file.index,
    receipts_bad: refused(receiptFile),
  },
};

async function leafHolds(c) {
  const { wallet, source, ...numbers } = v.parseLeaf(c.leaf);
  const hashed = v.hex(await v.leafHash(v.unhex(c.leaf))) === c.hash;
  return hashed && wallet === c.wallet && source === c.source && same(Object.values(numbers).map(String), c.numbers);
}

async function knownEntry(c) {
  const { known, ...fields } = await v.parseEntry(bytes(c, "entry"));
  return known && same(fields, { v: 1, ...c.fields }) && v.hex(await v.leafHash(bytes(c, "entry"))) === c.leaf_hash;
}

const failures = [];
let met = 0;
const folder = new URL(".", import.meta.url);
for (const file of readdirSync(folder).filter((name) => name.endsWith(".json"))) {
  const { about: _, ...groups } = JSON.parse(readFileSync(new URL(file, folder), "utf8"));
  const consumers = CONSUMERS[file] ?? {};
  const known = [...Object.keys(consumers), ...(NOT_A_VERIFIERS[file] ?? [])];
  if (!same(Object.keys(groups).sort(), known.sort())) {
    failures.push(`${file}: groups and consumers differ: ${Object.keys(groups)} and ${known}`);
  }
  for (const [group, consumer] of Object.entries(consumers)) {
    for (const [place, c] of (groups[group] ?? []).entries()) {
      const why = await consumer(c).then((ok) => (ok ? null : "not met"), (error) => error);
      if (why === null) met += 1;
      else failures.push(`${file} ${group} ${place} (${c.name ?? ""}): ${why}`);
    }
  }
}
for (const file of Object.keys(CONSUMERS)) {
  readFileSync(new URL(file, folder)); // a consumer of a file that is gone
}
if (failures.length > 0) {
  console.error(`${failures.length} vectors are not met:\n${failures.join("\n")}`);
  process.exit(1);
}
console.log(`${met} vectors are met`);
