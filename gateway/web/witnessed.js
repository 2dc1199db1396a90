// Whether witnesses whom the visitor trusts cosigned a checkpoint.

import * as v from "./verify.js";
import { Unanswered, date, element, memory, run } from "./panel.js";

/** Offers to judge a note by a policy that the visitor gives. */
export function witnesses(room, { note, log }) {
  const place = element("details", {}, element("summary", {}, "Did others see the same log? Ask for witnesses"));
  const input = element("textarea", { id: "check-policy", rows: "4", spellcheck: "false" });
  input.value = memory.read("policy") ?? "";
  const form = element("form", {}, element("label", { for: "check-policy" }, "A policy: whose cosignatures you ask for (C2SP tlog-policy)"),
    input, element("button", {}, "Ask for these"));
  const result = element("div", {});
  place.append(element("p", {}, "Witnesses cosign only one history of a log. Those whom you trust keep it from showing you another one than everybody else."),
    form, result);
  room.append(place);
  const judged = () => {
    result.replaceChildren();
    return run(result, () => cosigned(result, input.value, note, log));
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    memory.write("policy", input.value.trim() === "" ? null : input.value);
    judged();
  });
  if (input.value.trim() !== "") judged();
}

/** Whether a checkpoint meets a policy. That it does not is no misbehaviour. */
async function cosigned(place, text, note, log) {
  let policy;
  try {
    policy = await v.parsePolicy(`${text.trim()}\n`);
  } catch (error) {
    if (error instanceof v.Refused) throw new Unanswered(`that is no policy: ${error.message}`);
    throw error;
  }
  if (!v.acceptsLog(policy, log.key)) throw new Unanswered("the policy is for other logs");
  const { by, quorum } = await v.judge(policy, note).catch((error) => {
    if (error instanceof v.Refused) throw new Unanswered(`not yet witnessed: ${error.message}`);
    throw error;
  });
  const names = by.map(([witness, time]) => element("li", {}, `${policy.witnesses[witness].name}, ${date(time)}`));
  place.append(element("ul", {}, ...names));
  if (!quorum) throw new Unanswered(`not yet witnessed: ${by.length} of ${policy.witnesses.length} witnesses cosigned this checkpoint`);
  if (by.length === 0) throw new Unanswered("the policy asks for no witness, and none cosigned this checkpoint");
  return { says: "Witnessed: the policy's quorum cosigned this checkpoint." };
}
