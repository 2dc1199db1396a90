// Checks a file that the visitor drops or pastes: a receipt, an offline proof,
// a record, a wallet's answer, a signed note, or evidence. Nothing of it is
// sent anywhere; what is missing of a tlog-proof, its entry, is asked for by its index.

import * as v from "./verify.js";
import { checkPromise, checkProof, checkWallet, inWords } from "./checks.js";
import { judgeEvidence } from "./evidence.js";
import { Steps, Unanswered, ask, element, json, memory, number, run } from "./panel.js";
import { witnesses } from "./witnessed.js";

/** Makes the form in `place` check what it is given, and show it in `room`. */
export async function takeFiles(place, room) {
  const form = place.querySelector("form");
  const { text, key, file } = form.elements;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    check(room, text.value, key.value.trim());
  });
  const take = async (given) => {
    if (!given) return;
    text.value = await given.text();
    check(room, text.value, key.value.trim());
  };
  file.addEventListener("change", () => take(file.files[0]));
  place.addEventListener("dragover", (event) => event.preventDefault());
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
  form.querySelector("fieldset").disabled = false;
  if (key.value === "") key.value = memory.read("key")?.vkey ?? json(await ask("/api/pubkey")).vkey;
}

async function check(room, text, vkey) {
  room.replaceChildren();
  let note = null;
  let log;
  const passed = await run(room, async () => {
    const [kind, content] = recognised(text);
    room.append(element("h2", {}, kind.name));
    log = { vkey, key: await v.parseLogKey(vkey).catch((error) => {
      if (error instanceof v.Refused) throw new Unanswered(`that is no log's key: ${error.message}`);
      throw error;
    }) };
    const shown = await kind.check(new Steps(room, vkey), content, log);
    note = shown.note ?? null;
    return shown;
  });
  if (passed && note) witnesses(room, { note, log });
}

// --- What it is -------------------------------------------------------------

const has = (...names) => (value) => names.every((name) => Object.hasOwn(value, name));
const OBJECTS = [
  [has("tallystick_evidence"), { name: "An evidence file", check: evidence }],
  [has("id", "index", "entry", "receipt"), { name: "A receipt file", check: receiptFile }],
  [has("index", "entry", "receipt"), { name: "A record", check: record }],
  [has("wallet", "proof"), { name: "An answer about a wallet", check: walletAnswer }],
];

/** What a text is, by its content, and the content. */
function recognised(given) {
  const text = given.trim();
  if (text.startsWith("{")) {
    const value = json(text);
    const found = OBJECTS.find(([fits]) => fits(value));
    if (found) return [found[1], value];
  }
  if (text.startsWith("c2sp.org/tlog-proof@")) return [{ name: "An offline proof (tlog-proof)", check: tlogProof }, `${text}\n`];
  if (text.includes("\n\n\u2014 ")) {
    const promise = text.startsWith("tallystick/receipt/");
    return [promise ? { name: "A receipt note", check: receiptNote } : { name: "A checkpoint", check: checkpoint }, `${text}\n`];
  }
  // As it stands in the header x-tally-receipt.
  if (/^[A-Za-z0-9+/]{80,}={0,2}$/.test(text)) return recognised(new TextDecoder().decode(v.unbase64(text)));
  throw new Unanswered("that is no receipt, record, proof, checkpoint, wallet's answer or evidence file");
}

// --- How it is checked ------------------------------------------------------

async function receiptFile(steps, file, log) {
  const { usage, index } = await steps.step("The log promised this entry at this place, for this call alone", async () => {
    const { proof: _, ...promise } = file;
    const opened = await v.openReceiptFile(promise, log.key);
    return {
      value: opened, says: `Entry ${number(opened.index)}: ${inWords(opened.usage)}`,
      bytes: [["The receipt, a signed note", file.receipt], ["The entry's bytes", file.entry]],
    };
  });
  const what = `Entry ${number(index)} is yours: ${inWords(usage)}`;
  if (file.proof === undefined) {
    return { look: "warn", says: `${what} The file has no proof, so only the log can show that it holds the entry: ask for it with ?proof=1.` };
  }
  const held = await checkProof(steps, file.proof, await v.leafHash(file.entry), log, file.receipt);
  if (held.index !== index) throw new v.Refused("the proof is of another index");
  return { note: held.note, says: `${what} The log held it when it signed the checkpoint in this file.` };
}

async function record(steps, value, log) {
  await checkPromise(steps, value, log);
  return { says: `The log promised entry ${number(value.index)}. That it holds the entry, its proof shows: /api/records/${value.index}/proof.` };
}

async function walletAnswer(steps, answer, log) {
  if (answer.proof === null) throw new Unanswered("the answer holds no proof");
  return checkWallet(steps, answer.wallet, log, JSON.stringify(answer));
}

/** A tlog-proof does not hold its entry: that is asked for. */
async function tlogProof(steps, text, log) {
  const { index, checkpoint: note } = v.parseTlogProof(text);
  const { origin } = json(await ask("/api/pubkey"));
  if (!note.startsWith(`${origin}\n`)) {
    throw new Unanswered("a tlog-proof does not hold its entry, and this server is of another log; open this page there");
  }
  const { entry } = json(await ask(`/api/records/${index}`));
  const said = await steps.step("This server gave the entry", async () => {
    const parsed = await v.parseEntry(entry);
    return { value: parsed, says: inWords(parsed), bytes: [["The entry's bytes", entry]] };
  });
  const held = await checkProof(steps, text, await v.leafHash(entry), log);
  return { note, says: `Entry ${number(held.index)} (${said.kind}) stands in the log that signed this checkpoint.` };
}

async function checkpoint(steps, note, log) {
  const { size } = await steps.step("The log signed its checkpoint", async () => {
    const opened = await v.openCheckpoint(note, log.key);
    return { value: opened, says: `Its first ${number(opened.size)} entries have the root ${v.hex(opened.root)}.` };
  });
  return { note, says: `The log signed a checkpoint of ${number(size)} entries. Another one for that size, with another root, would prove a fork.` };
}

async function receiptNote(steps, note, log) {
  const { index } = await steps.step("The log signed this receipt", async () => {
    const opened = await v.openReceipt(note, log.key);
    return { value: opened, says: `The log promised, at index ${number(opened.index)}, the entry of leaf hash ${v.hex(opened.leafHash)}.` };
  });
  return { look: "warn", says: `The log promised an entry at index ${number(index)}. Which one, and that it is your call's, the receipt file shows.` };
}

const VERDICTS = {
  proven: ["bad", "Proven: ", " Whoever has the log's key comes to the same."],
  served: ["warn", "Not provable: the file says that ", ", but this was only served: it is the word of whoever kept the file. Ask the log for the same."],
  unjudged: ["warn", "Not judged here: the file says that ", ", which takes the entries before it, or signatures for chains. Judge it with `sentinel evidence FILE`."],
};

async function evidence(steps, file, log) {
  const { says, verdict } = await steps.step("Its material is judged again", async () => {
    const judged = await judgeEvidence(file, log.key);
    return {
      value: judged, state: judged.verdict === "proven" ? "passed" : "open",
      says: `It claims ${file.claim}: ${judged.says}. What it says beside its material is not believed.`,
      bytes: [["Its material", JSON.stringify(file.material, null, 2)]],
    };
  });
  const [look, before, after] = VERDICTS[verdict];
  return { look, says: `${before}${says}${verdict === "proven" ? "." : ""}${after}` };
}
