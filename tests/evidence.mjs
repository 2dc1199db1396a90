// Judges an evidence file as the page /check does, once for each key:
//
//     node evidence.mjs FILE VKEY...

import { readFileSync } from "node:fs";
import { judgeEvidence } from "../gateway/web/evidence.js";
import { Refused, parseLogKey } from "../gateway/web/verify.js";

const [file, ...vkeys] = process.argv.slice(2);
const evidence = JSON.parse(readFileSync(file, "utf8"));
for (const vkey of vkeys) {
  try {
    console.log((await judgeEvidence(evidence, await parseLogKey(vkey))).verdict);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    console.log("refused");
  }
}
