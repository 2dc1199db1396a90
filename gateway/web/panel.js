// What the checking pages share: asking this server, remembering, showing
// steps as they pass, and sounding the alarm. Everything that is shown is set
// as text, never as markup.

import { Refused, parseLogKey } from "./verify.js";

/** No complete answer: no verdict, never misbehaviour. */
export class Unanswered extends Error {}

/** A refusal with the evidence file that shows it to others. */
export class Caught extends Refused {
  constructor(why, claim, kind, material) {
    super(why);
    this.evidence = { claim, class: kind, material };
  }
}

// --- Elements ---------------------------------------------------------------

/** An element with attributes and content; strings become text. */
export function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...content);
  return made;
}

/** A number in groups of three digits. */
export const number = (value) => String(value).replace(/\B(?=(?:\d{3})+$)/g, "\u202f");

/** Seconds since 1970 as a person reads it. */
export function date(seconds) {
  const text = new Date(seconds * 1000).toISOString();
  return `${text.slice(0, 10)} ${text.slice(11, 19)} UTC`;
}

/** Labelled bytes behind a click. */
function bytes(labelled) {
  const rows = labelled.flatMap(([label, text]) => [element("dt", {}, label), element("dd", {}, element("pre", { class: "hash" }, text))]);
  return element("details", { class: "bytes" }, element("summary", {}, "The bytes"), element("dl", {}, ...rows));
}

// --- Memory -----------------------------------------------------------------

/** What this browser remembers of this server; nothing, where it may not. */
export const memory = {
  read(name) {
    try {
      return JSON.parse(localStorage.getItem(`tallystick.${name}`));
    } catch {
      return null;
    }
  },
  write(name, value) {
    try {
      if (value === null) localStorage.removeItem(`tallystick.${name}`);
      else localStorage.setItem(`tallystick.${name}`, JSON.stringify(value));
    } catch {
      // A browser that keeps nothing checks each visit for itself.
    }
  },
};

// --- Asking this server -----------------------------------------------------

/** The body of a 200 answer of this server, past caches. Pending ones are asked for again. */
export async function ask(path) {
  for (let tries = 0; ; tries++) {
    let answer, body;
    try {
      answer = await fetch(path, { cache: "no-store" });
      body = await answer.text();
    } catch (error) {
      throw new Unanswered(`${path} can't be reached: ${error.message}`);
    }
    if (answer.status === 200) return body;
    if (answer.status !== 202 || tries === 20) throw new Unanswered(`${path} answered with status ${answer.status}`);
    await new Promise((wake) => setTimeout(wake, 1000));
  }
}

/** The same, as JSON. */
export function json(body) {
  try {
    return JSON.parse(body);
  } catch {
    throw new Unanswered("an answer that is no JSON");
  }
}

// --- Steps ------------------------------------------------------------------

/** How a step stands: its class in the list, and the word for who does not see that. */
const STATES = {
  running: ["waits", "Being checked: "],
  passed: ["ok", "Passed: "],
  failed: ["bad", "Failed: "],
  open: ["open", "No verdict: "],
};

/** Why a check ended, as state and words. */
function ending(error) {
  if (error instanceof Unanswered) return ["open", error.message];
  if (error instanceof DOMException && error.name === "NotSupportedError") {
    return ["open", "this browser has no Ed25519; Chrome 137, Firefox 129 and Safari 17 have it"];
  }
  if (error instanceof Refused) return ["failed", error.message];
  return ["failed", `the answer has not the form that it must have: ${error.message}`];
}

/** A list of steps, each shown as it passes. */
export class Steps {
  constructor(place, vkey) {
    this.vkey = vkey;
    this.alarms = element("div", {});
    this.list = element("ol", { class: "steps" });
    place.append(this.alarms, this.list);
  }

  #item(state, title, says, labelled = []) {
    const [name, word] = STATES[state];
    const item = element("li", { class: name }, element("span", { class: "quiet" }, word), element("strong", {}, title));
    if (says) item.append(element("p", {}, says));
    if (labelled.length > 0) item.append(bytes(labelled));
    return item;
  }

  /**
   * Runs a step: `run` gives {says, bytes, value, state}, or throws, which ends
   * the list. `kept` is what to keep of it should it fail.
   */
  async step(title, run, kept = () => null) {
    const running = this.#item("running", title);
    this.list.append(running);
    try {
      const { says, bytes: labelled, value, state = "passed" } = await run();
      running.replaceWith(this.#item(state, title, says, labelled));
      return value;
    } catch (error) {
      const [state, why] = ending(error);
      running.replaceWith(this.#item(state, title, `${why}.`));
      if (state === "failed") this.alarm(title, why, error.evidence ?? kept());
      error.shown = true;
      throw error;
    }
  }

  /** Says what differs, and gives a file of it to keep. */
  alarm(title, why, evidence) {
    const box = element("div", { role: "alert", class: "callout bad" },
      element("h3", {}, "This does not verify"), element("p", {}, element("strong", {}, title), `: ${why}.`));
    if (evidence) {
      const file = {
        tallystick_evidence: 1, claim: evidence.claim, class: evidence.class, log: `${location.origin}/`,
        vkey: this.vkey, time: Math.floor(Date.now() / 1000), message: why, material: evidence.material,
      };
      const url = URL.createObjectURL(new Blob([JSON.stringify(file)], { type: "application/json" }));
      const link = element("a", { href: url, download: `evidence-${evidence.claim}.json`, class: "button" }, "Keep the file");
      const worth = evidence.class === "proven"
        ? "It proves to anybody who has the log's key that the log misbehaved: keep it, and show it."
        : "Reload once, as something on the way may have broken it. If it stays, keep this file and tell others: they can ask for the same.";
      box.append(element("p", {}, worth), element("p", {}, link));
    }
    this.alarms.append(box);
  }
}

/**
 * Says at `place` how a check goes and ends; whether it passed. `check` gives
 * the words, and how the callout is to look where that is not `ok`.
 */
export async function run(place, check) {
  const status = element("p", { role: "status", class: "callout" }, "Your browser is checking …");
  place.append(status);
  try {
    const { says, look = "ok" } = await check();
    status.textContent = says;
    status.className = `callout ${look}`;
    return true;
  } catch (error) {
    const [state, why] = ending(error);
    const failed = state === "failed";
    if (failed && !error.shown) status.setAttribute("role", "alert");
    const said = error.shown ? "below it says what differs" : why;
    status.textContent = failed ? `It does not verify: ${said}.` : `Not checked: ${why}.`;
    status.className = failed ? "callout bad" : "callout warn";
    return false;
  }
}

// --- The log's key ----------------------------------------------------------

/** Why this page can't check anything, or null. */
export function hindrance() {
  if (globalThis.crypto?.subtle) return null;
  return "This page came over plain http from another machine, so the browser gives it no cryptography, and anybody on the way "
    + "could have changed it. Open it over https, or use the sentinel, which checks the same.";
}

/**
 * The key that everything is checked under: the one that the visitor gave,
 * else the one that was served at the first visit. Shows it, and where it
 * changed says so and throws. `again` is called when the visitor chose another.
 */
export async function settleKey(place, again) {
  const box = element("div", {});
  place.append(box);
  const served = json(await ask("/api/pubkey")).vkey;
  const pinned = memory.read("key");
  const { vkey, given = false, since } = pinned ?? { vkey: String(served), since: Math.floor(Date.now() / 1000) };
  const key = await parseLogKey(vkey);
  if (!pinned) memory.write("key", { vkey, since });
  const from = given ? "which you gave" : pinned ? `which this server named at your first visit, ${date(since)}` : "which this server names";
  box.append(element("p", {}, "Checked under the key ", element("code", { class: "hash" }, vkey), `, ${from}.`));
  box.append(chooseKey(again));
  if (vkey !== served) {
    const forget = element("button", { type: "button" }, "Forget the old key and trust the new one");
    forget.addEventListener("click", () => {
      for (const name of ["key", "seen"]) memory.write(name, null);
      again();
    });
    box.prepend(element("div", { role: "alert", class: "callout bad" }, element("h3", {}, "This server names another key"),
      element("p", {}, "It now names ", element("code", { class: "hash" }, String(served)), ". A log keeps its key for ever: this is another "
        + "log, or somebody stands between. Nothing is checked under the new key unless you say so."), element("p", {}, forget)));
    throw Object.assign(new Refused("this server names another key"), { shown: true });
  }
  return { vkey, key };
}

function chooseKey(again) {
  const input = element("input", { type: "text", id: "check-vkey", autocomplete: "off", spellcheck: "false" });
  const problem = element("p", { role: "status" });
  const form = element("form", { class: "line" }, element("label", { for: "check-vkey" }, "The log's verifier key"), input,
    element("button", {}, "Use it"), problem);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const vkey = input.value.trim();
      await parseLogKey(vkey);
      memory.write("key", { vkey, given: true });
      memory.write("seen", null);
      again();
    } catch (error) {
      problem.textContent = `That is no log's key: ${error.message}.`;
    }
  });
  return element("details", {}, element("summary", {}, "Use a key from elsewhere"),
    element("p", {}, "A key is worth as much as the place you have it from: somebody you trust, or your own sentinel. "
      + "Without one, the first key that this server named is kept, and a change is shown."), form);
}
