// Builds TallystickAnchor.sol and writes, or compares, what is committed beside it:
//
//   standard-input.json   what the compiler is given, as explorers ask for it
//   artifact.json         ABI, creation and runtime code, metadata
//   creation.hex          the creation code, from which the address is derived
//
//   npm ci --ignore-scripts
//   node build.mjs            write
//   node build.mjs --check    fail where a file differs

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const solc = createRequire(import.meta.url)("solc");

const CONTRACT = "TallystickAnchor";
const SOURCE = `${CONTRACT}.sol`;
const beside = (name) => new URL(name, import.meta.url);

const input = {
  language: "Solidity",
  sources: { [SOURCE]: { content: readFileSync(beside(SOURCE), "utf8") } },
  settings: {
    evmVersion: "cancun",
    optimizer: { enabled: true, runs: 1_000_000 },
    viaIR: true,
    outputSelection: { [SOURCE]: { [CONTRACT]: ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "metadata"] } },
  },
};

const output = JSON.parse(solc.compile(JSON.stringify(input)));
for (const { formattedMessage } of output.errors ?? []) console.error(formattedMessage);
if (output.errors?.length) process.exit(1);

const built = output.contracts[SOURCE][CONTRACT];
const creation = built.evm.bytecode.object;
const artifact = {
  contractName: CONTRACT,
  compiler: solc.version(),
  abi: built.abi,
  bytecode: `0x${creation}`,
  deployedBytecode: `0x${built.evm.deployedBytecode.object}`,
  metadata: built.metadata,
};
const files = {
  "standard-input.json": `${JSON.stringify(input, null, 1)}\n`,
  "artifact.json": `${JSON.stringify(artifact, null, 1)}\n`,
  "creation.hex": `${creation}\n`,
};

const checking = process.argv[2] === "--check";
const differ = Object.entries(files).filter(([name, content]) => {
  if (checking) return readFileSync(beside(name), "utf8") !== content;
  writeFileSync(beside(name), content);
});
if (differ.length > 0) {
  console.error(`differs from what ${solc.version()} makes: ${differ.map(([name]) => name).join(", ")}`);
  process.exit(1);
}
