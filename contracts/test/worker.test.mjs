// Every operation of the worker contract, with gas ceilings, and stakes that
// are slashed by receipts that contradict each other, and by nothing else.
import assert from "node:assert/strict";
import { after as atEnd, describe, test } from "node:test";
import { beginCell, contractAddress, toNano } from "@ton/core";
import { code, exitCode, gasOf, HOUR, keys, num, op, RESERVE, status, txOf, txsOf, World } from "./world.mjs";
import { accuse, advance, commonOver, DELAY, leave, releasedWithStake, signedReceipt, staked, withdraw, wop } from "./worker_world.mjs";

const ceilings = { stake: 5900, leave: 5900, withdraw: 6500, advance: 5500, accuse: 6500, slash: 12500 };
const seen = new Map();
const within = (tx, name) => {
  const gas = Number(gasOf(tx));
  seen.set(name, gas);
  assert.ok(gas <= ceilings[name], `${name}: ${gas} gas, ceiling ${ceilings[name]}`);
};
atEnd(() => {
  for (const [name, gas] of seen) console.log(`gas worker.${name} ${gas} (ceiling ${ceilings[name]})`);
});

const conservedHere = async (w, step) => {
  const at = [w.worker, w.job, w.registry, ...["owner", "client", "payout", "gateway", "anyone"].map((n) => w[n].address)];
  const sum = async () => { let s = 0n; for (const a of at) s += await w.balance(a); return s; };
  const before = await sum();
  const res = await step();
  let fees = 0n;
  for (const tx of res.transactions) {
    fees += tx.totalFees.coins;
    for (const m of tx.outMessages.values()) if (m.info.type === "internal") fees += m.info.forwardFee;
  }
  assert.equal(before + res.transactions[0].inMessage.info.value.coins, await sum() + fees, "sum in = sum out + fees");
  return res;
};

describe("stake", () => {
  test("is added by anyone, and leaves to the owner after the delay", async () => {
    const w = await staked({ amount: 0n });
    within(txOf(await conservedHere(w, () => w.stake(toNano(5))), w.worker), "stake");
    assert.equal(await w.balance(w.worker), toNano(5) + RESERVE);
    await conservedHere(w, () => w.stake(toNano(1), { from: w.anyone, value: toNano(1) + toNano("0.1") }));
    assert.equal((await w.workerState()).stake, toNano(6));
    within(txOf(await conservedHere(w, () => leave(w, toNano(2))), w.worker), "leave");
    assert.equal(exitCode(await withdraw(w), w.worker), code.STAKE_LOCKED);
    w.chain.now += DELAY;
    const res = await conservedHere(w, () => withdraw(w));
    within(txOf(res, w.worker), "withdraw");
    assert.equal(txsOf(res, w.owner.address)[0].inMessage.info.value.coins, toNano(2));
    assert.equal((await w.workerState()).stake, toNano(4));
    assert.equal(exitCode(await withdraw(w), w.worker), code.STAKE_NOT_LEAVING);
  });

  test("leaves whole with its reserve: nothing sticks", async () => {
    const w = await staked();
    await leave(w, toNano(5));
    w.chain.now += DELAY;
    await conservedHere(w, () => withdraw(w));
    assert.equal(await w.balance(w.worker), 0n);
    assert.equal(exitCode(await w.stake(toNano(1)), w.worker), 0, "and can come back");
    assert.equal(await w.balance(w.worker), toNano(1) + RESERVE);
  });

  test("refusals", async () => {
    const w = await staked();
    for (const [res, want] of [
      [await leave(w, toNano(1), w.anyone), "NOT_WORKER_OWNER"],
      [await leave(w, toNano(6)), "STAKE_TOO_LOW"],
      [await w.stake(0n), "AMOUNT_ZERO"],
      [await w.stake(toNano(1), { value: toNano(1) }), "VALUE_TOO_LOW"],
      [await w.send(w.owner, w.worker, w.body(wop.withdraw), { value: toNano("0.001") }), "VALUE_TOO_LOW"],
      [await w.send(w.owner, w.worker, w.body(0x12345678)), "UNKNOWN_OPCODE"],
    ]) {
      assert.equal(exitCode(res, w.worker), code[want]);
    }
    await leave(w, toNano(1));
    await leave(w, 0n);
    w.chain.now += DELAY;
    assert.equal(exitCode(await withdraw(w), w.worker), code.STAKE_NOT_LEAVING, "called off");
  });

  test("the boot generation is the owner's and only grows, by one", async () => {
    const w = await staked();
    within(txOf(await conservedHere(w, () => advance(w, 1)), w.worker), "advance");
    assert.equal((await w.workerState()).generation, 1n);
    for (const n of [0, 1, 3]) assert.equal(exitCode(await advance(w, n), w.worker), code.GENERATION_NOT_NEXT);
    assert.equal(exitCode(await advance(w, 2, w.anyone), w.worker), code.NOT_WORKER_OWNER);
    assert.equal(exitCode(await advance(w, 2), w.worker), 0);
  });
});

describe("two receipts of one number that differ", () => {
  test("slash the whole stake: half to the client, half to the registry, also what is leaving", async () => {
    const w = await releasedWithStake();
    await leave(w, toNano(5));
    w.chain.now += DELAY; // the owner is about to run
    const before = await w.balance(w.registry);
    const res = await conservedHere(w, () => accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "b")));
    within(txOf(res, w.job), "accuse");
    within(txOf(res, w.worker), "slash");
    assert.equal(exitCode(res, w.worker), 0);
    const st = await w.workerState();
    assert.deepEqual([st.stake, st.leaving, st.slashed], [0n, 0n, toNano(5)]);
    assert.equal(txsOf(res, w.client.address)[0].inMessage.info.value.coins, toNano("2.5"));
    assert.ok(await w.balance(w.registry) > before + toNano("2.4"));
    assert.equal(exitCode(res, w.registry), 0);
    assert.equal((await w.registryState()).slashed, toNano("2.5"));
    assert.ok(txsOf(res, w.anyone.address).at(-1).inMessage.info.value.coins > toNano("0.07"), "the rest of the value goes back to the accuser");
    assert.equal(exitCode(await withdraw(w), w.worker), code.STAKE_NOT_LEAVING);
  });

  test("slash once: a second accusation finds nothing and costs only its gas", async () => {
    const w = await releasedWithStake();
    await accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "b"));
    const res = await conservedHere(w, () => accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "b")));
    assert.equal(exitCode(res, w.worker), 0);
    assert.equal((await w.workerState()).slashed, toNano(5));
  });

  test("slash after the job has closed, too", async () => {
    const w = await releasedWithStake();
    await w.close();
    w.chain.now += HOUR;
    await w.finish();
    await conservedHere(w, () => accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "b")));
    assert.equal((await w.workerState()).slashed, toNano(5));
  });

  const innocent = [
    ["the same receipt twice", "RECEIPTS_AGREE", (w) => accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "a"))],
    ["receipts of two numbers", "RECEIPT_SIGNATURE", (w) => accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 4, "b"))],
    ["a receipt of another key", "RECEIPT_SIGNATURE", (w) => accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "b", { kp: keys("forger") }))],
    ["a receipt of another job", "RECEIPT_SIGNATURE", (w) => accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "b", { job: w.registry }))],
    ["a verdict that was not recorded", "RECEIPT_VERDICT_UNKNOWN", (w) => accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "b"), { verdictHash: 5n })],
  ];
  for (const [what, want, run] of innocent) {
    test(`${what}: no contradiction`, async () => {
      const w = await releasedWithStake();
      assert.equal(exitCode(await run(w), w.job), code[want]);
      assert.equal((await w.workerState()).slashed, 0n);
    });
  }

  test("a job without a worker contract refuses accusations", async () => {
    const w = await releasedWithStake({ terms: () => ({}) });
    assert.equal(exitCode(await accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "b")), w.job), code.NO_STAKE);
  });

  test("a worker contract that is not there keeps nothing of the escrow", async () => {
    const w = await releasedWithStake({ terms: () => ({ stake: World.cold("no worker") }) });
    const before = await w.balance(w.job);
    await accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "b"));
    assert.equal(await w.balance(w.job), before);
  });
});

describe("who may slash", () => {
  test("not a stranger, nor the owner", async () => {
    const w = await releasedWithStake();
    for (const from of [w.anyone, w.owner]) {
      const res = await w.send(from, w.worker, w.body(wop.slash, (b) => b.storeUint(3, 64).storeAddress(w.anyone.address)
        .storeRef(w.jobInit.data.refs[0])));
      assert.equal(exitCode(res, w.worker), code.NOT_JOB);
    }
    assert.equal((await w.workerState()).stake, toNano(5));
  });

  test("not a job of another payout or registry, be it ever so genuine", async () => {
    for (const worker of [{ payout: World.cold("other payout") }, { registry: World.cold("other registry") }]) {
      const w = await releasedWithStake({ worker });
      const res = await accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "b"));
      assert.equal(exitCode(res, w.job), 0);
      assert.equal(exitCode(res, w.worker), code.NOT_JOB);
      assert.equal((await w.workerState()).stake, toNano(5));
    }
  });

  test("not a job that pays this worker and whose verdicts are another's", async () => {
    const other = World.cold("the accuser's own worker");
    const w = await staked({ terms: (stake) => ({ stake, boundPayout: other }) });
    await w.deposit();
    const over = { ...commonOver, payout: other };
    await w.release(w.verdict(over));
    assert.equal((await w.jobState()).status, status.released);
    const res = await accuse(w, signedReceipt(w, 3, "a"), signedReceipt(w, 3, "b"), { verdictHash: num(w.common(over).hash()) });
    assert.equal(exitCode(res, w.job), 0);
    assert.equal(exitCode(res, w.worker), code.NOT_JOB);
    assert.equal((await w.workerState()).stake, toNano(5));
  });

  test("not the job's code with data of the accuser's making", async () => {
    const w = await releasedWithStake();
    // Released from the start, to a key of the accuser's.
    const s = w.jobInit.data.beginParse();
    const before = s.loadBits(16 + 4 + 64 + 64 + 256 + 32); // up to the status
    s.loadUint(8);
    const forged = { code: w.jobInit.code, data: beginCell().storeBits(before).storeUint(1, 8).storeSlice(s).endCell() };
    const address = contractAddress(0, forged);
    await w.send(w.anyone, address, w.body(op.deposit, (b) => b.storeCoins(1n)), { init: forged, value: toNano(1) });
    const res = await w.send(address, w.worker, w.body(wop.slash, (b) => b.storeUint(3, 64).storeAddress(w.anyone.address)
      .storeRef(w.jobInit.data.refs[0])));
    assert.equal(exitCode(res, w.worker), code.NOT_JOB);
  });
});
