// Asks a chain, through a node that the visitor chose and only after a click,
// whether it keeps the history that this server shows.

import * as chain from "./chain.js";
import * as v from "./verify.js";
import { continues } from "./checks.js";
import { Steps, Unanswered, ask, date, element, json, memory, number, run } from "./panel.js";

/** Public nodes that answer browsers, to begin with; any other will do. */
const CHAINS = {
  1: ["Ethereum", "https://ethereum-rpc.publicnode.com", "https://eth.drpc.org"],
  10: ["OP Mainnet", "https://mainnet.optimism.io", "https://optimism-rpc.publicnode.com"],
  8453: ["Base", "https://mainnet.base.org", "https://base-rpc.publicnode.com"],
  42161: ["Arbitrum One", "https://arb1.arbitrum.io/rpc", "https://arbitrum-one-rpc.publicnode.com"],
  84532: ["Base Sepolia", "https://sepolia.base.org", "https://base-sepolia-rpc.publicnode.com"],
  11155111: ["Sepolia", "https://ethereum-sepolia-rpc.publicnode.com", "https://sepolia.drpc.org"],
};

/** The chains on which this log says it has a contract come first. */
async function chains({ anchor }) {
  const told = await ask("/api/anchors?limit=1").then((body) => json(body).chains, () => []);
  const own = [...(anchor ? [anchor] : []), ...told].map(({ chain_id, chain }) => [String(chain_id), chain]);
  const others = Object.entries(CHAINS).map(([id, [name]]) => [id, name]);
  return new Map([...own, ...others.filter(([id]) => !own.some(([known]) => known === id))]);
}

/** Puts the form into `place`. */
export async function askChain(place, checked) {
  const select = element("select", { id: "check-chain" });
  for (const [id, name] of await chains(checked)) select.append(element("option", { value: id }, `${name} (${id})`));
  const suggested = element("datalist", { id: "check-nodes" });
  const node = element("input", { id: "check-node", type: "url", list: "check-nodes", required: "", placeholder: "https://", autocomplete: "off" });
  const suggest = () => {
    const [, ...nodes] = CHAINS[select.value] ?? [null];
    suggested.replaceChildren(...nodes.map((url) => element("option", { value: url })));
    node.value = memory.read(`node.${select.value}`) ?? nodes[0] ?? "";
  };
  select.addEventListener("change", suggest);
  suggest();
  const form = element("form", {}, element("label", { for: "check-chain" }, "Chain"), select,
    element("label", { for: "check-node" }, "Node (JSON-RPC)"), node, suggested, element("button", {}, "Ask the chain"));
  const result = element("div", {});
  place.append(element("p", {}, "Nothing is asked before you press the button. The node then learns your address and which log you check; take one that this log's operator does not run."),
    form, result);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    memory.write(`node.${select.value}`, node.value);
    result.replaceChildren();
    run(result, () => compare(new Steps(result, checked.log.vkey), Number(select.value), rpc(node.value), checked));
  });
}

/** JSON-RPC over one node. */
const rpc = (url) => async (method, params) => {
  let answer;
  try {
    const sent = await fetch(url, {
      method: "POST", headers: { "content-type": "application/json" }, credentials: "omit", referrerPolicy: "no-referrer",
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
    });
    answer = json(await sent.text());
  } catch (error) {
    throw new Unanswered(`the node does not answer: ${error.message}`);
  }
  const { error, result } = answer;
  if (error && (error.code === 3 || /revert/i.test(error.message))) throw new chain.Reverted(error.message);
  if (error || typeof result !== "string") throw new Unanswered(`the node refused ${method}: ${error?.message ?? "no result"}`);
  return result;
};

const named = (anchor) => `Anchor ${number(anchor.index)}: ${number(anchor.size)} entries, in a block of ${date(anchor.blockTime)}`;

async function compare(steps, id, node, { checkpoint, note, log, anchor, covered, evmKey }) {
  await steps.step("The node is of this chain", async () => {
    const found = await chain.chainId(node);
    if (found !== id) throw new Unanswered(`the node is of chain ${found}`);
    return { says: `It says that it is of chain ${id}.` };
  });
  const said = await steps.step("The log's contract stands there", async () => {
    const contract = chain.contractAddress(log.key, await evmKey(), (await ask("/contract.hex")).trim());
    if (anchor?.chain_id === id && anchor.contract !== contract) throw new v.Refused(`the log names another contract: ${anchor.contract}`);
    return {
      value: { contract, ...(await chain.readContract(node, contract, covered)) },
      says: `${contract}: the address follows from the contract's code, the log's name and its keys, so nobody's else can stand there.`,
    };
  });
  await steps.step("Nobody proved there that the log has two histories", async () => {
    if (said.forked) throw new v.Refused("the contract holds two roots that the log signed for one size");
    return { says: said.retired ? "None is recorded. The log is marked as ended." : "None is recorded." };
  });
  const found = await steps.step("The chain keeps a root that covers this", async () => {
    if (said.latest === null) return { value: null, state: "open", says: "Nothing was anchored on this chain yet." };
    const own = anchor?.chain_id === id ? anchor : null;
    if (said.covering === null) {
      if (own?.status === "finalized") throw new v.Refused("the log says that it is anchored there, and the chain says that it is not");
      return { value: said.latest, state: "open", says: `Not yet: ${named(said.latest)} is the newest.` };
    }
    if (own && (own.index !== said.covering.index || own.size !== said.covering.size || own.root !== `0x${v.hex(said.covering.root)}`)) {
      throw new v.Refused("the log names another anchor than the chain");
    }
    return {
      value: said.covering, says: `${named(said.covering)}.`,
      bytes: [["The contract", said.contract], ["The anchored root", v.hex(said.covering.root)]],
    };
  });
  if (found === null) return { look: "warn", says: "Nothing is anchored on this chain yet." };
  await steps.step("The anchored root is of the history that you were shown", async () => {
    const [older, newer] = found.size < checkpoint.size ? [[found], [checkpoint, note]] : [[checkpoint, note], [found]];
    const hashes = await differ(continues(older, newer));
    return { says: "The smaller one is the beginning of the larger one.", bytes: [["The consistency proof", hashes.join("\n") || "(none: the same size)"]] };
  });
  return said.covering
    ? { says: "The chain keeps the history that you were shown, and it covers this." }
    : { look: "warn", says: "The chain keeps the history that you were shown, but not as far as this." };
}

/** An anchor is no signed note: what differs from it is told without a file. */
async function differ(proven) {
  try {
    return await proven;
  } catch (error) {
    if (error instanceof v.Refused) throw new v.Refused(`the chain keeps another history: ${error.message}`);
    throw error;
  }
}
