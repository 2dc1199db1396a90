// What the checking pages check, step by step: a wallet's total or a record,
// down to the log's signed checkpoint, and whether that continues what this
// browser saw before. verify.js judges; this fetches, and says what it means.

import * as v from "./verify.js";
import { Caught, Unanswered, ask, date, json, memory, number } from "./panel.js";

const lines = (hashes) => hashes.join("\n") || "(none: the tree has one leaf)";

/** The note's signature, and what the checkpoint says. */
const signed = (note, log) => async () => {
  const checkpoint = await v.openCheckpoint(note, log.key);
  return {
    value: checkpoint,
    says: `The log signed that its first ${number(checkpoint.size)} entries have one root. It can't change any of them without changing that.`,
    bytes: [["The checkpoint, a signed note", note]],
  };
};

// --- A wallet ---------------------------------------------------------------

/** Checks a wallet's total by the gateway's answer; gives what was verified. */
export async function checkWallet(steps, wallet, log, body) {
  const answer = json(body);
  const { proof } = answer;
  if (proof === null) throw new Unanswered("the gateway can't prove the total at the moment; reload in some minutes");
  const kept = () => ({ claim: "wallet_proof", class: "served", material: { wallet, answer: body } });
  const checkpoint = await steps.step("The log signed its checkpoint", signed(proof.checkpoint, log), kept);
  const under = async ({ index, entry, hashes }) => {
    await v.verifyInclusion(await v.leafHash(entry), index, checkpoint.size, checkpoint.root, hashes.map(v.hashOf));
    return v.parseEntry(entry);
  };
  const first = await steps.step("Entry 0 names this log and its key", async () => {
    const first = await under(proof.log);
    if (first.kind !== "log" || first.vkey !== log.vkey) throw new v.Refused("entry 0 names another key");
    return {
      value: first,
      says: `It stands first under the checkpoint, and says that totals are due every ${number(first.totals_interval)} seconds.`,
      bytes: [["Entry 0", proof.log.entry], ["Its path to the root", lines(proof.log.hashes)]],
    };
  }, kept);
  await steps.step("The totals of all wallets stand in the log", async () => {
    if (proof.totals === null) return { state: "open", says: "There are none yet: of no wallet is anything proven." };
    const totals = await under(proof.totals);
    return {
      says: `Entry ${number(proof.totals.index)} commits to the sums of ${number(totals.count)} leaves over the first ${number(totals.size)} entries.`,
      bytes: [["The totals entry", proof.totals.entry], ["Its path to the root", lines(proof.totals.hashes)]],
    };
  }, kept);
  const proven = await steps.step("This wallet's sums are among them, and all of them are shown", async () => {
    const verified = await v.verifyWallet(wallet, proof, log.key);
    if (verified.totals === null) return { value: verified, state: "open", says: "No totals are due yet that could hold them." };
    return {
      value: verified,
      says: "They lead to the root of the totals, and the wallets next to this one are shown too, so none of its leaves can be hidden. The totals are not older than they may be.",
      bytes: proof.leaves.map(({ index, leaf, hashes }) => [`Leaf ${index} and its path`, `${leaf}\n${hashes.join("\n")}`]),
    };
  }, kept);
  await steps.step("The newest sums fit to what is proven", async () => compared(answer, proven), kept);
  return {
    checkpoint, note: proof.checkpoint, anchor: answer.anchor ?? null, covered: proven.totals ? proof.totals.index : checkpoint.size - 1,
    evmKey: async () => first.evm_key, says: summary(wallet, proven),
  };
}

/** What is summed up can be newer than what is proven, by as many records as came since. */
function compared({ size, bound }, { leaves, totals }) {
  const since = BigInt(size) - BigInt(totals?.size ?? 0);
  if (since < 0n) return { state: "open", says: "The totals came while the gateway answered. Reload for newer sums." };
  let newer = 0n;
  for (const leaf of leaves) {
    if (!bound.some(({ source }) => source === leaf.source)) throw new v.Refused(`the sums leave out what is proven of source ${leaf.source}`);
  }
  if (new Set(bound.map(({ source }) => source)).size !== bound.length) throw new v.Refused("the sums name a source twice");
  for (const sums of bound) {
    const leaf = leaves.find(({ source }) => source === sums.source);
    const more = (name) => BigInt(sums[name]) - (leaf?.[name] ?? 0n);
    const records = more("records");
    for (const name of ["records", "input", "output", "cache_read", "cache_write", "reasoning"]) {
      if (more(name) < 0n) throw new v.Refused(`the sums have less ${name} than is proven`);
      if (name !== "records" && more(name) > records * 0xffffffffn) throw new v.Refused(`the sums have more ${name} than their records can have`);
    }
    newer += records;
  }
  if (newer > since) throw new v.Refused("the sums have more new records than the log has new entries");
  return {
    says: newer === 0n ? "All that the gateway sums up is proven."
      : `${number(newer)} records came after the totals entry: they are proven with the next one, and their sums are the gateway's word until then.`,
  };
}

function summary(wallet, { leaves, totals }) {
  if (totals === null) return "Verified by your browser: the log has no totals yet.";
  const until = ` through entry ${number(totals.size - 1)}`;
  if (leaves.length === 0) return `Verified by your browser: ${wallet} has no bound usage${until}.`;
  const sums = leaves.map(({ source, records, input, output }) =>
    `${number(input + output)} tokens in ${number(records)} records (${source})`);
  return `Verified by your browser: ${sums.join(" and ")}${until}.`;
}

// --- A record ---------------------------------------------------------------

/** Checks that a record is what the log promised; gives its leaf hash, and what it says. */
export async function checkPromise(steps, { index, entry, receipt }, log) {
  const leaf = await v.leafHash(String(entry));
  await steps.step("The log promised this entry at this place", async () => {
    const promised = await v.openReceipt(receipt, log.key);
    if (promised.index !== index) throw new v.Refused("the receipt is for another index");
    if (!v.equal(promised.leafHash, leaf)) throw new v.Refused("the receipt is for another entry");
    return {
      says: "Its receipt is signed by the log, and names the entry's hash. Whoever made the call holds the same receipt.",
      bytes: [["The receipt, a signed note", receipt], ["SHA-256 of a zero byte and the entry", v.hex(leaf)]],
    };
  });
  const said = await steps.step("The entry is well formed, and says this", async () => {
    const parsed = await v.parseEntry(entry);
    return { value: parsed, says: inWords(parsed), bytes: [["The entry's bytes", entry]] };
  });
  return { leaf, said };
}

/** Checks a record of this server; gives what was verified. */
export async function checkRecord(steps, index, log) {
  const record = json(await ask(`/api/records/${index}`));
  if (record.index !== index) throw new v.Refused("the answer is of another index");
  const { receipt } = record;
  const { leaf, said } = await checkPromise(steps, record, log);
  const proof = await ask(`/api/records/${index}/proof`);
  const held = await checkProof(steps, proof, leaf, log, receipt);
  if (held.index !== index) throw new v.Refused("the proof is of another index");
  return {
    ...held, anchor: record.anchor ?? null, covered: index, evmKey: () => evmKeyOf(log),
    says: `Verified by your browser: entry ${number(index)} (${said.kind}) stands in the log that signed this checkpoint.`,
  };
}

/** Checks that a tlog-proof shows an entry; gives index, checkpoint and note. */
export async function checkProof(steps, proof, leaf, log, receipt) {
  const { path, checkpoint: note } = v.parseTlogProof(proof);
  await steps.step("The log signed its checkpoint", signed(note, log));
  const hashes = path.map((hash) => btoa(String.fromCharCode(...hash)));
  const kept = () => receipt && {
    claim: "receipt_not_held", class: "served",
    material: { receipt, checkpoint: note, leaf_hash: btoa(String.fromCharCode(...leaf)), path: hashes },
  };
  return steps.step("The entry stands under the checkpoint", async () => ({
    value: await v.verifyTlogProof(proof, leaf, log.key),
    says: `${number(path.length)} hashes lead from it to the signed root.`,
    bytes: [["The path, from the entry's sibling up", lines(hashes)], ["The proof, a file to keep (tlog-proof)", proof]],
  }), kept);
}

/** An entry as a person reads it. */
export function inWords(entry) {
  if (!entry.known) return `An entry of kind ${entry.kind}, of ${date(entry.time)}. What it means is not judged here.`;
  if (entry.kind !== "usage") return `An entry of kind ${entry.kind}, of ${date(entry.time)}.`;
  const counts = ["input", "output"].filter((name) => entry[name] !== undefined).map((name) => `${number(entry[name])} ${name}`);
  const who = entry.wallet ? `, ${entry.link} to ${entry.wallet}` : "";
  const model = entry.model ? ` ${entry.model}` : "";
  return `${entry.provider}${model}: ${counts.join(", ") || "no"} tokens, ${entry.outcome}, ${date(entry.time)}${who}.`;
}

/** The EVM key that entry 0 names, proven under a checkpoint of its own. */
async function evmKeyOf(log) {
  const { entry } = json(await ask("/api/records/0"));
  await v.verifyTlogProof(await ask("/api/records/0/proof"), await v.leafHash(entry), log.key);
  const first = await v.parseEntry(entry);
  if (first.kind !== "log" || first.vkey !== log.vkey) throw new v.Refused("entry 0 names another key");
  return first.evm_key;
}

// --- What was seen before ---------------------------------------------------

async function consistency(from, to) {
  const { from_root, hashes } = json(await ask(`/api/proof/consistency?from=${from}&to=${to}`));
  return { fromRoot: v.hashOf(from_root), hashes: hashes.map(v.hashOf), sent: { prefix_root: from_root, proof: hashes } };
}

/** Proves that an opened checkpoint continues another, not larger one; gives the proof's hashes in base64. */
export async function continues([older, olderNote], [newer, newerNote]) {
  if (older.size === newer.size) {
    if (v.equal(older.root, newer.root)) return [];
    throw new Caught("two roots are signed for one size", "fork", "proven", { checkpoints: [olderNote, newerNote] });
  }
  const { fromRoot, hashes, sent } = await consistency(older.size, newer.size);
  if (!v.equal(fromRoot, older.root)) {
    // That the newer root has another beginning is proven, if the path leads to it.
    await v.verifyConsistency(older.size, fromRoot, newer.size, newer.root, hashes);
    throw new Caught(`the log's first ${older.size} entries are not those that it signed before`, "history_rewritten", "proven",
      { older: olderNote, newer: newerNote, ...sent });
  }
  await v.verifyConsistency(older.size, older.root, newer.size, newer.root, hashes);
  return sent.proof;
}

/** Requires that the log goes on being smaller: of several gateways one may be a moment behind. */
async function staysSmaller(size, log) {
  for (let tries = 0; tries < 4; tries++) {
    await new Promise((wake) => setTimeout(wake, 1500));
    const now = await v.openCheckpoint(await ask("/checkpoint"), log.key);
    if (now.size >= size) throw new Unanswered("the answer is older than the checkpoint that you saw last; reload for a newer one");
  }
}

/** Compares a checkpoint with the largest one that this browser saw of the log. */
export async function sameHistory(steps, { checkpoint, note }, log) {
  await steps.step("It continues what this browser saw before", async () => {
    const seen = memory.read("seen");
    const remember = () => memory.write("seen", { vkey: log.vkey, note });
    const older = seen?.vkey === log.vkey ? await v.openCheckpoint(seen.note, log.key).catch(() => null) : null;
    if (older === null) {
      remember();
      return { state: "open", says: "This is your first visit. The checkpoint is remembered, and compared the next time." };
    }
    const [before, now] = [[older, seen.note], [checkpoint, note]];
    if (checkpoint.size < older.size) {
      await continues(now, before).catch(async (error) => {
        if (!(error instanceof Unanswered)) throw error;
        await staysSmaller(older.size, log);
        throw new Caught(`the log has ${checkpoint.size} entries, and had ${older.size} when you came last`, "rollback", "served",
          { remembered: seen.note, served: note });
      });
      return { state: "open", says: "It is older than the one you saw last, and of the same history. Reload for the newest." };
    }
    const hashes = await continues(before, now);
    remember();
    return {
      says: `The ${number(older.size)} entries that you saw last are the beginning of these ${number(checkpoint.size)}: nothing was changed or taken out.`,
      bytes: [["The checkpoint you saw last", seen.note], ["The consistency proof", hashes.join("\n") || "(none: the same size)"]],
    };
  });
}
