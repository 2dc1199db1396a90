// Deploys the committed artifact on a chain of its own and has Sourcify's
// library verify it from the committed input, as explorers do: both matches
// must be perfect.
//
//   npm ci --ignore-scripts
//   node sourcify.mjs

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const solc = require("solc");
const { ethers } = require("ethers");
const { SolidityCompilation, SourcifyChain, Verification, setLibSourcifyLoggerLevel } =
  require("@ethereum-sourcify/lib-sourcify");

const DEPLOYER = "0x4e59b44847b379578588920cA78FbF26c0B4956C";
const json = (name) => JSON.parse(readFileSync(new URL(name, import.meta.url), "utf8"));
const artifact = json("artifact.json");
const input = json("standard-input.json");

/** Starts a node on a port of its own choice; gives its URL. */
async function start() {
  const path = require.resolve("@foundry-rs/anvil-linux-amd64/bin/anvil");
  const node = spawn(path, ["--port", "0", "--steps-tracing"], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  for await (const part of node.stdout) {
    said += part;
    const found = said.match(/Listening on (\S+)/);
    if (found) return [node, `http://${found[1]}`];
  }
  throw new Error(`anvil did not start: ${said}`);
}

const [node, url] = await start();
try {
  const provider = new ethers.JsonRpcProvider(url);
  const signer = await provider.getSigner(0);
  const key = ethers.sha256("0x01");
  const constructor = new ethers.ContractFactory(artifact.abi, artifact.bytecode);
  const { data } = await constructor.getDeployTransaction("log.example.org", key, DEPLOYER);
  const salt = "0x".padEnd(66, "0");
  const sent = await signer.sendTransaction({ to: DEPLOYER, data: ethers.concat([salt, data]) });
  const { hash } = await sent.wait();
  const address = ethers.getCreate2Address(DEPLOYER, salt, ethers.keccak256(data));

  setLibSourcifyLoggerLevel(0);
  const { chainId } = await provider.getNetwork();
  const chain = new SourcifyChain({
    name: "anvil",
    chainId: Number(chainId),
    rpc: [url],
    rpcs: [{ rpc: url, traceSupport: "debug_traceTransaction" }],
    supported: true,
  });
  const compiler = { compile: async (_, given) => JSON.parse(solc.compile(JSON.stringify(given))) };
  const target = { path: `${artifact.contractName}.sol`, name: artifact.contractName };
  const version = artifact.compiler.replace(".Emscripten.clang", "");
  const compilation = new SolidityCompilation(compiler, version, input, target);
  const verification = new Verification(compilation, chain, address, hash);
  await verification.verify();
  const { runtimeMatch, creationMatch } = verification.status;
  console.log(`runtime match: ${runtimeMatch}, creation match: ${creationMatch}`);
  if (runtimeMatch !== "perfect" || creationMatch !== "perfect") process.exitCode = 1;
  provider.destroy();
} finally {
  node.kill();
}
