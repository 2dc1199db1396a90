// Begins the checking on pages that have a place for it: a section of the id
// `verify` that names a wallet, a record, or that takes files.

import { Steps, ask, element, hindrance, run, settleKey } from "./panel.js";
import { checkRecord, checkWallet, sameHistory } from "./checks.js";
import { witnesses } from "./witnessed.js";

const section = document.getElementById("verify");
if (section) begin(section);

function begin(place) {
  const room = element("div", {});
  place.append(room);
  const start = async () => {
    room.replaceChildren();
    const hindered = hindrance();
    if (hindered) {
      room.append(element("p", { role: "status", class: "callout warn" }, hindered));
    } else if ("files" in place.dataset) {
      const { takeFiles } = await import("./files.js");
      takeFiles(place, room);
    } else {
      await checkPage(place.dataset, room, start);
    }
  };
  start();
}

async function checkPage({ wallet, record }, room, again) {
  let checked;
  const passed = await run(room, async () => {
    const log = await settleKey(room, again);
    const steps = new Steps(room, log.vkey);
    const what = wallet
      ? await checkWallet(steps, wallet, log, await ask(`/api/wallet/${wallet}`))
      : await checkRecord(steps, Number(record), log);
    checked = { log, ...what };
    await sameHistory(steps, checked, log);
    return checked;
  });
  if (!passed) return;
  witnesses(room, checked);
  onChain(room, checked);
}

function onChain(room, checked) {
  const place = element("details", {}, element("summary", {}, "Is it anchored on a chain? Ask a node of your choice"));
  place.addEventListener("toggle", async () => {
    if (!place.open || place.dataset.ready) return;
    place.dataset.ready = "yes";
    const { askChain } = await import("./anchored.js");
    askChain(place, checked);
  });
  room.append(place);
}
