// Compiles the Tolk sources; used by the build and by the test that compares
// with the committed output.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { runTolkCompiler } from "@ton/tolk-js";

export const root = join(dirname(fileURLToPath(import.meta.url)), "..");
export const contracts = ["registry", "job", "worker"];

/** Compiles one contract; dir is where its source is, relative to contracts/. */
export async function compile(name, dir = "tolk") {
  const res = await runTolkCompiler({
    entrypointFileName: `${name}.tolk`,
    fsReadCallback: (path) => readFileSync(join(root, dir, path), "utf8"),
  });
  if (res.status === "error") throw new Error(`${name}.tolk: ${res.message}`);
  if (res.stderr) process.stderr.write(res.stderr);
  const sources = {};
  for (const s of res.sourcesSnapshot) {
    // The standard library is part of the pinned compiler.
    if (!s.filename.startsWith("@stdlib/")) {
      sources[s.filename] = createHash("sha256").update(s.contents).digest("hex");
    }
  }
  return {
    contract: name,
    compiler: `tolk ${res.tolkVersion}`,
    codeHashHex: res.codeHashHex.toLowerCase(),
    codeBoc64: res.codeBoc64,
    sources: Object.fromEntries(Object.entries(sources).sort()),
  };
}

export const committedPath = (name) => join(root, "compiled", `${name}.json`);
export const render = (artefact) => JSON.stringify(artefact, null, 2) + "\n";
