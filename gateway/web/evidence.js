// Judges evidence files (PROTOCOL.md section 11.1) by verify.js and the log's
// key alone. The file's own class and message are not believed.
//
// Out of scope, and said so by the verdict `unjudged`: what an entry follows
// (bindings, sums, lateness), which needs the log's entries before it, and
// what the EVM key signed. `sentinel evidence` judges that too. What was only served, nobody can judge
// offline: the verdict is `served`.

import {
  Refused, equal, hashOf, leafHash, openCheckpoint, openNote, openReceipt, parseEntry, parseLogKey, unbase64,
  verifyConsistency, verifyInclusion,
} from "./verify.js";

const UNJUDGED = "unjudged";

/** What each claim says, and how it is judged; without a judge it was only served. */
const CLAIMS = {
  fork: ["the log signed two roots for one size", fork],
  history_rewritten: ["the log signed a history that does not continue an earlier one", rewritten],
  empty_log: ["the log signed that it is empty", empty],
  checkpoint_malformed: ["the log signed what is neither a checkpoint nor a receipt", malformedNote],
  entry_malformed: ["an entry is not of the form that entries have", malformedEntry],
  first_entry: ["entry 0 does not say what the log is", firstEntry],
  second_log_entry: ["a second entry says what the log is", secondLog],
  time_backwards: ["an entry is older than one before it", backwards],
  receipt_not_held: ["the log does not hold what it gave a receipt for", notHeld],
  unbound_wallet: ["an entry counts for a wallet that no binding names", unbound],
  totals_false: ["a totals entry is wrong", falseTotals],
  binding_ignored: ["an entry does not count for the wallet it is bound to", follows],
  binding_invalid: ["a binding is not valid", follows],
  totals_overdue: ["a totals entry came too late", follows],
  anchor_invalid: ["an anchor entry names another contract, or a chain again", follows],
  anchor_differs: ["a chain keeps, or the log signed for chains, another root than the log's", forChains],
  anchor_forked: ["the log signed two roots for one size, for chains", forChains],
  anchor_withheld: ["a chain keeps more than the log serves"],
  anchor_overdue: ["no anchor came in time"],
  anchor_history: ["the log's contract says something else than before"],
  anchor_contract: ["another contract stands where the log's must be"],
  receipt_signature: ["the signature in a receipt tile is wrong"],
  receipt_foreign_id: ["a receipt file's entry is another call's"],
  key_changed: ["the log was served under another key"],
  rollback: ["the log became smaller"],
  root_mismatch: ["the entries do not give the signed root"],
  tile_mismatch: ["a tile is not that of the entries"],
  checkpoint_overdue: ["a checkpoint did not come"],
  wallet_proof: ["a wallet's proof does not hold"],
  aggregate_stats: ["the statistics are not the sums over the entries"],
  aggregate_models: ["a model's sums are not those over the entries"],
  aggregate_leaderboard: ["the leaderboard is not that of the entries"],
  aggregate_user: ["a key's sums are not those over its entries"],
  aggregate_wallet: ["a wallet's sums are not those over its entries"],
  aggregate_chain: ["the log's state is not that of its entries"],
};

const need = (holds, why) => {
  if (!holds) throw new Refused(why);
};

/**
 * Judges a parsed evidence file under a log's key. `verdict` is `proven`,
 * `served` (the word of whoever kept it), or `unjudged`; `says` is the claim
 * in plain words. Throws Refused with the reason where the material does not
 * show the claim.
 */
export async function judgeEvidence(file, logKey) {
  need(file.tallystick_evidence === 1, "an evidence file of a version that is not known here");
  need(Object.hasOwn(CLAIMS, file.claim), `a claim that is not known here: ${file.claim}`);
  const [says, judge] = CLAIMS[file.claim];
  need(file.material !== null && typeof file.material === "object", "an evidence file without material");
  return { says, verdict: judge ? await judge(file.material, logKey) : "served" };
}

const when = (genuine) => (genuine ? "proven" : "served");

/** What the text of a material is; the material is a stranger's. */
function text(material, name) {
  need(typeof material[name] === "string", `the material has no ${name}`);
  return material[name];
}

function list(material, name, count) {
  need(Array.isArray(material[name]), `the material has no list ${name}`);
  need(count === undefined || material[name].length === count, `${name} are not ${count}`);
  return material[name];
}

const hashes = (material, name) => list(material, name).map((hash) => hashOf(String(hash)));
const checkpoint = (material, name, key) => openCheckpoint(text(material, name), key);

async function fork(material, key) {
  const notes = list(material, "checkpoints", 2).map(String);
  const [one, other] = [await openCheckpoint(notes[0], key), await openCheckpoint(notes[1], key)];
  need(one.size === other.size, "the two checkpoints are of different sizes");
  need(!equal(one.root, other.root), "the two checkpoints have the same root");
  return "proven";
}

async function rewritten(material, key) {
  const [older, newer] = [await checkpoint(material, "older", key), await checkpoint(material, "newer", key)];
  const prefix = hashOf(text(material, "prefix_root"));
  need(older.size > 0 && older.size < newer.size, "the checkpoints do not ascend");
  await verifyConsistency(older.size, prefix, newer.size, newer.root, hashes(material, "proof"));
  need(!equal(prefix, older.root), "the newer checkpoint continues the older one");
  return "proven";
}

async function empty(material, key) {
  const { size } = await checkpoint(material, "checkpoint", key);
  need(size === 0, `the checkpoint signs ${size} entries`);
  return "proven";
}

const opens = async (opening) => opening.then(() => true, (error) => {
  if (error instanceof Refused) return false;
  throw error;
});

async function malformedNote(material, key) {
  const note = text(material, "note");
  const signed = await openNote(note, key);
  need(!(await opens(openCheckpoint(note, key))), "the note is a checkpoint");
  return when(!signed.startsWith("tallystick/receipt/v1\n"));
}

/** An entry item's entry, and whether the log gave a receipt for it. */
async function item(kept, key) {
  const { index, entry, receipt } = kept ?? {};
  need(Number.isSafeInteger(index) && index >= 0, "an entry without an index");
  const bytes = unbase64(String(entry));
  const leaf = await leafHash(bytes);
  const promised = await openReceipt(String(receipt), key).catch((error) => {
    if (error instanceof Refused) return null;
    throw error;
  });
  const genuine = promised !== null && promised.index === index && equal(promised.leafHash, leaf);
  return { index, bytes, genuine };
}

const one = (material, key) => item(list(material, "entries", 1)[0], key);

async function malformedEntry(material, key) {
  const { bytes, genuine } = await one(material, key);
  let parsed;
  try {
    parsed = await parseEntry(bytes);
  } catch (error) {
    if (error instanceof Refused) return when(genuine);
    throw error;
  }
  need(!parsed.known, "the entry is canonical");
  return UNJUDGED;
}

async function firstEntry(material, key) {
  const { index, bytes, genuine } = await one(material, key);
  need(index === 0, "it is not about entry 0");
  const entry = await parseEntry(bytes);
  if (entry.kind === "log") {
    need(entry.known, "entry 0 is of a version that is not known here");
    const named = await parseLogKey(entry.vkey);
    need(named.name !== key.name || !equal(named.material, key.material), "entry 0 names the key");
  }
  return when(genuine);
}

async function secondLog(material, key) {
  const { index, bytes, genuine } = await one(material, key);
  const { kind, v } = await parseEntry(bytes);
  need(index > 0 && kind === "log" && v === 1, "the entry is not a second one of kind log");
  return when(genuine);
}

async function backwards(material, key) {
  const [before, after] = await Promise.all(list(material, "entries", 2).map((kept) => item(kept, key)));
  need(before.index < after.index, "the entries do not ascend");
  const times = [(await parseEntry(before.bytes)).time, (await parseEntry(after.bytes)).time];
  need(times[0] > times[1], "the times do not descend");
  return when(before.genuine && after.genuine);
}

async function notHeld(material, key) {
  const promised = await openReceipt(text(material, "receipt"), key);
  const { size, root } = await checkpoint(material, "checkpoint", key);
  if (material.path === undefined) return "served";
  const leaf = hashOf(text(material, "leaf_hash"));
  const led = await opens(verifyInclusion(leaf, promised.index, size, root, hashes(material, "path")));
  need(!led || !equal(leaf, promised.leafHash), "the log holds what it promised");
  return when(led);
}

async function unbound(material, key) {
  const { bytes, genuine } = await one(material, key);
  const entry = await parseEntry(bytes);
  need(entry.known && entry.link === "bound", "the entry counts for no wallet by a binding");
  return genuine && entry.key_id === undefined ? "proven" : UNJUDGED;
}

async function falseTotals(material, key) {
  const { index, bytes, genuine } = await one(material, key);
  const entry = await parseEntry(bytes);
  need(entry.known && entry.kind === "totals", "the entry is not of kind totals");
  return genuine && entry.size > index ? "proven" : UNJUDGED;
}

/** The claim is about what the entry follows. */
async function follows(material, key) {
  await one(material, key);
  return UNJUDGED;
}

/** The claim is about what a chain said, or about signatures of the EVM key, which are not verified here. */
function forChains(material) {
  const signed = material.statement ?? material.statements;
  return signed === undefined ? "served" : UNJUDGED;
}
