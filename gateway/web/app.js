// What every page gets beside its text: buttons to copy, and news of the log
// as it grows. Pages can be read without it.

/** Puts a button beside lines that are made to be copied. */
function offerCopying(block) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy by hand";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  block.append(button);
}

const offerAll = (root) => root.querySelectorAll("[data-copy]").forEach(offerCopying);

/** A number as the server writes it: groups of three digits. */
const grouped = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");

/** Milliseconds between two looks at the page's own address. */
const LOOK = 3000;
/** Milliseconds between two things said to who listens to the page. */
const SAY = 30000;

let looked = 0;
let said = Date.now();
let waiting;
let source;

/** Says it to screen readers, seldom: a count that is read all the time is noise. */
function say(text) {
  if (Date.now() - said < SAY) return;
  said = Date.now();
  document.getElementById("news").textContent = text;
}

/** Whether somebody is in the middle of something there. */
function inUse(part) {
  const marked = getSelection();
  return part.contains(document.activeElement)
    || (!marked.isCollapsed && part.contains(marked.anchorNode));
}

/** Asks for the page again and takes over those parts that are to be renewed. */
async function look() {
  waiting = undefined;
  looked = Date.now();
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-refresh]")) {
    const newer = page.getElementById(part.id);
    if (!newer || inUse(part) || newer.innerHTML === part.dataset.was) continue;
    part.dataset.was = newer.innerHTML;
    part.replaceChildren(...newer.childNodes);
    if (navigator.clipboard) offerAll(part);
  }
}

function grown(state) {
  for (const place of document.querySelectorAll("[data-live]")) {
    const n = state[place.dataset.live];
    if (n === undefined || place.value === String(n)) continue;
    place.value = String(n);
    place.textContent = grouped(n);
    place.classList.remove("fresh");
    void place.offsetWidth;
    place.classList.add("fresh");
  }
  say(`The log has ${state.size} entries.`);
  if (waiting || !document.querySelector("[data-refresh]")) return;
  waiting = setTimeout(() => look().catch(() => {}), Math.max(0, looked + LOOK - Date.now()));
}

/** Listens while the page is seen: browsers have few connections to one server. */
function listen() {
  if (document.hidden) {
    source?.close();
    source = undefined;
  } else if (!source) {
    source = new EventSource("/api/events");
    source.addEventListener("state", (event) => grown(JSON.parse(event.data)));
  }
}

// Browsers give the clipboard to pages on https and on this machine only.
if (navigator.clipboard) offerAll(document);
document.addEventListener("visibilitychange", listen);
addEventListener("pagehide", () => { source?.close(); source = undefined; });
addEventListener("pageshow", listen);
