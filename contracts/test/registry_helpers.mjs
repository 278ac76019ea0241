// What the registry's test files share: gas ceilings and a question.
import assert from "node:assert/strict";
import { exitCode, gasOf, op, txsOf } from "./world.mjs";

const most = {
  "propose": 9700, "execute": 10000, "act at once": 18400, "veto": 8500, "refused order": 6000, "propose, sixteen dropped": 52000,
  "checkVerdict, k = 1": 8700, "checkVerdict, k = 2": 10300, "checkVerdict, k = 2, 10000 manifests": 11800, "checkVerdict, k = 2, with a fee": 17900,
  "claim": 10500, "postBond": 9400, "unbond": 10800, "withdrawBond": 10500, "slash": 17600,
};
const seen = new Map();
const notes = [];

/** Asserts a transaction's gas against the ceiling of its operation. */
export function within(tx, name) {
  const gas = Number(gasOf(tx));
  seen.set(name, Math.max(gas, seen.get(name) ?? 0));
  assert.ok(gas <= most[name], `${name}: ${gas} gas, ceiling ${most[name]}`);
}

export const ceilings = {
  note: (line) => notes.push(line),
  print: () => {
    for (const [name, gas] of seen) console.log(`gas registry: ${name}: ${gas} (ceiling ${most[name]})`);
    for (const line of notes) console.log(line);
  },
};

/** Asks the registry directly, as a job would, and returns the answer. */
export async function ask(w, verdict, { feeBps = 500, renewal = false, verifierFee = 0n, from = w.anyone, value } = {}) {
  const res = await w.send(from, w.registry, w.body(op.checkVerdict, (b) =>
    b.storeUint(feeBps, 16).storeBit(renewal).storeCoins(verifierFee).storeRef(verdict.refs[0]).storeRef(verdict.refs[1]), 77), { value });
  assert.equal(exitCode(res, w.registry), 0);
  const reply = txsOf(res, from.address).at(-1).inMessage;
  const s = reply.body.beginParse();
  assert.equal(s.loadUint(32), op.verdictAnswer);
  assert.equal(s.loadUintBig(64), 77n);
  return { verdictHash: s.loadUintBig(256), code: s.loadUint(16), validUntil: s.loadUint(32), value: reply.info.value.coins, res };
}
