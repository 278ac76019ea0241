// A world with a worker contract, for the tests of stakes and of gas.
import assert from "node:assert/strict";
import { beginCell, contractAddress, toNano } from "@ton/core";
import { sign } from "@ton/crypto";
import { codeCell, exitCode, hash, HOUR, keys, num, op, RESERVE, status, World } from "./world.mjs";

export const wop = { stake: 0x43570001, leave: 0x43570002, withdraw: 0x43570003, advance: 0x43570004, slash: 0x43570005, paid: 0x43570006 };
export const DELAY = 24 * HOUR;
export const receiptKey = keys("receipt");

export function workerInit(t) {
  const jobCode = codeCell("job");
  const machine = beginCell().storeUint(t.machine ?? 7n, 256).storeUint(DELAY, 32)
    .storeBuffer(jobCode.hash()).storeUint(jobCode.depth(), 16).endCell();
  const terms = beginCell().storeAddress(t.owner).storeAddress(t.payout).storeAddress(t.registry).storeRef(machine).endCell();
  const data = beginCell().storeUint(1, 16).storeUint(0, 64).storeCoins(0).storeCoins(0).storeUint(0, 32).storeCoins(0).storeRef(terms).endCell();
  return { code: codeCell("worker"), data };
}

/** A world with a worker contract of 5 TON; opts.terms may be a function of its address. */
export async function staked({ terms = (stake) => ({ stake }), worker = {}, amount = toNano(5) } = {}) {
  const base = await World.create();
  const init = workerInit({ owner: base.owner.address, payout: base.payout.address, registry: base.registry, ...worker });
  const address = contractAddress(0, init);
  const w = await World.create({ terms: terms(address) });
  w.worker = address;
  w.workerInit = init;
  w.stake = (n, { from = w.owner, value = n + RESERVE + toNano("0.1") } = {}) =>
    w.send(from, w.worker, w.body(wop.stake, (b) => b.storeCoins(n)), { value, init });
  w.workerState = async () => {
    const s = (await w.data(w.worker)).beginParse();
    assert.equal(s.loadUint(16), 1);
    return { generation: s.loadUintBig(64), stake: s.loadCoins(), leaving: s.loadCoins(), leaveAt: s.loadUint(32), slashed: s.loadCoins() };
  };
  if (amount > 0n) assert.equal(exitCode(await w.stake(amount), w.worker), 0);
  return w;
}

export const leave = (w, n, from = w.owner) => w.send(from, w.worker, w.body(wop.leave, (b) => b.storeCoins(n)));
export const withdraw = (w, from = w.anyone) => w.send(from, w.worker, w.body(wop.withdraw));
export const advance = (w, n, from = w.owner) => w.send(from, w.worker, w.body(wop.advance, (b) => b.storeUint(n, 64)));

export const signedReceipt = (w, seq, text, { kp = receiptKey, job = w.job } = {}) => {
  const statement = beginCell().storeUint(0x43525331, 32).storeInt(job.workChain, 8).storeBuffer(job.hash)
    .storeUint(seq, 64).storeUint(hash(text), 256).endCell();
  return beginCell().storeUint(hash(text), 256).storeBuffer(sign(statement.hash(), kp.secretKey)).endCell();
};
export const commonOver = { receiptKey: num(receiptKey.publicKey) };
export const accuse = (w, first, second, { seq = 3, verdictHash = num(w.common(commonOver).hash()), value = toNano("0.1"), from = w.anyone } = {}) =>
  w.send(from, w.job, w.body(op.accuse, (b) => b.storeUint(verdictHash, 256).storeUint(seq, 64).storeRef(first).storeRef(second)), { value });

export async function releasedWithStake(opts) {
  const w = await staked(opts);
  await w.deposit();
  await w.release(w.verdict(commonOver));
  assert.equal((await w.jobState()).status, status.released);
  return w;
}
