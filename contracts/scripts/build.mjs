// Writes compiled/{registry,job,worker}.json: the code cells that Go embeds.
import { writeFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { compile, contracts, committedPath, render, root } from "./compile.mjs";

mkdirSync(join(root, "compiled"), { recursive: true });
for (const name of contracts) {
  const artefact = await compile(name);
  writeFileSync(committedPath(name), render(artefact));
  const bytes = Buffer.from(artefact.codeBoc64, "base64").length;
  console.log(`${name}: ${artefact.codeHashHex} (${bytes} bytes)`);
}
