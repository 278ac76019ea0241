// What the registry's test files share: gas ceilings and a question.
import assert from "node:assert/strict";
import { beginCell } from "@ton/core";
import { sign } from "@ton/crypto";
import { exitCode, GLOBAL_ID, gasOf, HOUR, keyId, num, op, txsOf } from "./world.mjs";

const most = {
  "schedule a manifest": 8800, "schedule a model": 9200, "schedule a policy": 9200, "schedule a verifier": 10600, "schedule a gateway": 10000,
  "veto what is scheduled": 9700, "propose": 10500, "execute": 11900, "act at once": 21000, "veto": 9000, "refused order": 6500,
  "propose, sixteen dropped": 55000, "checkVerdict, k = 1": 10500, "checkVerdict, k = 2": 12900, "checkVerdict, k = 2, 10000 manifests": 14400,
  "checkVerdict, k = 2, with a fee": 14400, "checkVerdict, k = 2, with a fee, 10000 manifests": 16100, "stakePaid": 5300, "claim": 14300, "postBond": 10400, "unbond": 15400, "withdrawBond": 11900, "slash": 24100,
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

/** A transaction's fees and those of its messages, in TON, without storage. */
export const spent = (tx) => {
  let fees = tx.totalFees.coins - (tx.description.storagePhase?.storageFeesCollected ?? 0n);
  for (const m of tx.outMessages.values()) fees += m.info.forwardFee;
  return Number(fees) / 1e9;
};

/** Sends a verdict for its sender to know; code is the registry's exit code. */
export async function ask(w, verdict, { verifierFee = 0n, from = w.anyone, value } = {}) {
  const res = await w.release(verdict, { to: from.address, from, verifierFee, value, queryId: 77 });
  const got = exitCode(res, w.registry);
  const reply = txsOf(res, from.address).at(-1).inMessage;
  if (got !== 0) {
    assert.ok(reply.info.bounced, "a refused verdict's money bounces");
    return { code: got, res };
  }
  const s = reply.body.beginParse();
  assert.equal(s.loadUint(32), op.verdictGood);
  assert.equal(s.loadUintBig(64), 77n);
  assert.ok(s.loadAddress().equals(from.address));
  return {
    code: 0, verdictHash: s.loadUintBig(256), receiptKey: s.loadUintBig(256), validUntil: s.loadUint(32), renewalsOnly: s.loadBit(),
    feeCap: s.loadUint(16), binding: s.loadRef(), value: reply.info.value.coins, res,
  };
}

/** A claim that a verifier's key signs. */
export function claimBody(w, kp, { to = w.owner.address, until = w.chain.now + HOUR, signer = kp, globalId = GLOBAL_ID } = {}) {
  const statement = beginCell().storeUint(0x434f4331, 32).storeInt(globalId, 32).storeAddress(w.registry)
    .storeUint(keyId(kp), 256).storeAddress(to).storeUint(until, 32).endCell();
  return w.body(op.claim, (b) => b.storeBuffer(sign(statement.hash(), signer.secretKey)).storeRef(statement));
}

/** A bond, with the grant that names its owner. */
export function grantBody(w, kp, amount, { owner = w.payout.address, signer = kp } = {}) {
  const grant = beginCell().storeUint(0x434f4231, 32).storeInt(GLOBAL_ID, 32).storeAddress(w.registry)
    .storeUint(num(kp.publicKey), 256).storeAddress(owner).endCell();
  return w.body(op.postBond, (b) => b.storeCoins(amount).storeBuffer(sign(grant.hash(), signer.secretKey)).storeRef(grant));
}

/** A verifier's signature over a common cell, as an accusation. */
export function accusation(w, kp, over, { signer = kp } = {}) {
  const common = w.common(over);
  const [issuedAt, expiresAt] = [w.chain.now - 5, w.chain.now + 600];
  const statement = beginCell().storeUint(0x43565331, 32).storeBuffer(common.hash()).storeUint(keyId(kp), 256)
    .storeUint(issuedAt, 64).storeUint(expiresAt, 64).endCell();
  return beginCell().storeUint(issuedAt, 64).storeUint(expiresAt, 64).storeBuffer(sign(statement.hash(), signer.secretKey)).storeRef(common).endCell();
}

export const slashBody = (w, kp, a, b) => w.body(op.slash, (c) =>
  c.storeUint(num(kp.publicKey), 256).storeRef(accusation(w, kp, a)).storeRef(accusation(w, kp, b)));
