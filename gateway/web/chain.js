// What a log's contract on an EVM chain says (PROTOCOL.md section 13): where
// it stands, worked out from the log's own keys, and what its views answer.
//
// Nothing here fetches: a caller brings `ask(method, params)`, which gives a
// JSON-RPC result, throws Reverted where the contract refused, and anything
// else where there was no answer. What a node says is that node's word.

import { Refused, hex, unhex } from "./verify.js";

/** The contract refused a call. */
export class Reverted extends Error {}

const need = (holds, why) => {
  if (!holds) throw new Refused(why);
};

// --- Keccak-256 (the Keccak reference, with the padding of before SHA-3) ----

const LANE = 2n ** 64n - 1n;
const RATE = 136;
const rotated = (lane, by) => ((lane << by) | (lane >> (64n - by))) & LANE;

/** Keccak-f[1600] on 25 lanes; lane (x, y) is at x + 5 y. */
function permute(state) {
  let noise = 1;
  for (let round = 0; round < 24; round++) {
    const column = [0, 1, 2, 3, 4].map((x) =>
      [5, 10, 15, 20].reduce((sum, y) => sum ^ state[x + y], state[x]));
    for (let x = 0; x < 5; x++) {
      const mixed = column[(x + 4) % 5] ^ rotated(column[(x + 1) % 5], 1n);
      for (let y = 0; y < 25; y += 5) state[x + y] ^= mixed;
    }
    let [x, y, moving] = [1, 0, state[1]];
    for (let step = 0; step < 24; step++) {
      [x, y] = [y, (2 * x + 3 * y) % 5];
      const place = x + 5 * y;
      [moving, state[place]] = [state[place], rotated(moving, BigInt((((step + 1) * (step + 2)) / 2) % 64))];
    }
    for (let y = 0; y < 25; y += 5) {
      const row = state.slice(y, y + 5);
      for (let x = 0; x < 5; x++) state[y + x] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5] & LANE);
    }
    for (let bit = 0; bit < 7; bit++) {
      noise = ((noise << 1) ^ ((noise >> 7) * 0x171)) & 0xff;
      if (noise & 2) state[0] ^= 1n << (2n ** BigInt(bit) - 1n);
    }
  }
}

/** Keccak-256 of bytes. */
export function keccak(bytes) {
  const padded = new Uint8Array((Math.floor(bytes.length / RATE) + 1) * RATE);
  padded.set(bytes);
  padded[bytes.length] ^= 0x01;
  padded[padded.length - 1] ^= 0x80;
  const words = new DataView(padded.buffer);
  const state = Array(25).fill(0n);
  for (let block = 0; block < padded.length; block += RATE) {
    for (let lane = 0; lane < RATE / 8; lane++) state[lane] ^= words.getBigUint64(block + 8 * lane, true);
    permute(state);
  }
  const digest = new DataView(new ArrayBuffer(32));
  for (let lane = 0; lane < 4; lane++) digest.setBigUint64(8 * lane, state[lane], true);
  return new Uint8Array(digest.buffer);
}

// --- The contract's address (section 13.2) ----------------------------------

const DEPLOYER = "4e59b44847b379578588920ca78fbf26c0b4956c";
const word = (digits) => digits.padStart(64, "0");
const utf8 = (text) => new TextEncoder().encode(text);

/**
 * Where the contract of a log stands, on every chain: `creation` is the
 * contract's creation code in hex, `evmKey` the address that entry 0 names.
 * No other log's contract, and no other code, can stand there.
 */
export function contractAddress(logKey, evmKey, creation) {
  const origin = utf8(logKey.name);
  const name = hex(origin).padEnd(Math.ceil(origin.length / 32) * 64, "0");
  const words = word("60") + hex(logKey.material) + word(evmKey.slice(2)) + word(origin.length.toString(16)) + name;
  const init = keccak(unhex(creation + words));
  return "0x" + hex(keccak(unhex("ff" + DEPLOYER + word("") + hex(init)))).slice(24);
}

// --- Views (section 13.4, the Solidity ABI) ---------------------------------

const selector = (signature) => hex(keccak(utf8(signature)).subarray(0, 4));

/** The words that a view answers. */
async function view(ask, contract, signature, ...numbers) {
  const arguments_ = numbers.map((number) => word(BigInt(number).toString(16))).join("");
  const data = "0x" + selector(signature) + arguments_;
  const answer = await ask("eth_call", [{ to: contract, data }, "latest"]);
  need(/^0x(?:[0-9a-f]{64})*$/.test(answer), `${signature} answered what is no words`);
  return answer.slice(2).match(/.{64}/g) ?? [];
}

const numberIn = (digits) => {
  const value = BigInt("0x" + digits);
  need(value <= BigInt(Number.MAX_SAFE_INTEGER), "a number above 2^53 - 1");
  return Number(value);
};

async function anchor(ask, contract, signature, ...numbers) {
  let words;
  try {
    words = await view(ask, contract, signature, ...numbers);
  } catch (error) {
    if (error instanceof Reverted) return null;
    throw error;
  }
  need(words.length === 5, `${signature} answered ${words.length} words instead of 5`);
  const [index, size, root, time, blockTime] = words;
  return {
    index: numberIn(index), size: numberIn(size), root: unhex(root),
    time: numberIn(time), blockTime: numberIn(blockTime),
  };
}

async function flag(ask, contract, signature) {
  const [digits, ...more] = await view(ask, contract, signature);
  need(/^0{63}[01]$/.test(digits ?? "") && more.length === 0, `${signature} answered neither yes nor no`);
  return digits.endsWith("1");
}

/** The chain that a node is of. */
export async function chainId(ask) {
  const answer = await ask("eth_chainId", []);
  need(/^0x[0-9a-f]{1,13}$/.test(answer), "the node names no chain");
  return Number(answer);
}

/**
 * What the contract says: whether the log is forked or retired, its newest
 * anchor, and the first that covers the entry at `index`, each {index, size,
 * root, time, blockTime} or null. Does not compare them with a checkpoint.
 */
export async function readContract(ask, contract, index) {
  const code = await ask("eth_getCode", [contract, "latest"]);
  need(/^0x(?:[0-9a-f]{2})+$/.test(code), `no contract stands at ${contract}`);
  return {
    forked: await flag(ask, contract, "forked()"),
    retired: await flag(ask, contract, "retired()"),
    latest: await anchor(ask, contract, "latest()"),
    covering: await anchor(ask, contract, "firstCovering(uint64)", index),
  };
}
