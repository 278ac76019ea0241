// The committed code is what the committed sources compile to.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Cell } from "@ton/core";
import { compile, contracts, committedPath, render } from "../scripts/compile.mjs";

for (const name of contracts) {
  test(`${name} recompiles to the committed code`, async () => {
    const fresh = await compile(name);
    const committed = readFileSync(committedPath(name), "utf8");
    assert.equal(JSON.parse(committed).codeHashHex, fresh.codeHashHex);
    assert.equal(committed, render(fresh));
    assert.equal(Cell.fromBase64(fresh.codeBoc64).hash().toString("hex"), fresh.codeHashHex);
  });
}
