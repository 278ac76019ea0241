// Every operation of the job, with gas ceilings, balances to the nanoton,
// conservation over whole message chains, and each refusal.
import assert from "node:assert/strict";
import { after as atEnd, describe, test } from "node:test";
import { beginCell, toNano } from "@ton/core";
import { internal } from "@ton/sandbox";
import {
  code, conserved, entry, exitCode, gasOf, hash, HOUR, keys, num, op, refused, released, RESERVE, status, txOf,
  txsOf, verdictCell, World,
} from "./world.mjs";

const ceilings = {
  deposit: 5200, checkVerdict: 10200, recorded: 6400, redeem: 10500, redeemOwn: 9300, redeemNoFee: 9900,
  close: 5500, settle: 6500, finish: 7300, returned: 3800, refused: 3000, replayed: 4500,
  recordedFull: 13500, redeemFull: 12500, checkSixteen: 75000,
};
const seen = new Map();
const within = (tx, name) => {
  const gas = Number(gasOf(tx));
  seen.set(name, gas);
  assert.ok(gas <= ceilings[name], `${name}: ${gas} gas, ceiling ${ceilings[name]}`);
};

atEnd(() => {
  for (const [name, gas] of seen) console.log(`gas job.${name} ${gas} (ceiling ${ceilings[name]})`);
});

describe("deposit", () => {
  test("records exactly the amount and returns the rest to the sender", async () => {
    const w = await World.create();
    const amount = toNano(10);
    const { res, after, before } = await conserved(w, () => w.deposit(amount));
    within(txOf(res, w.job), "deposit");
    assert.equal((await w.jobState()).deposited, amount);
    assert.equal(after(w.job), amount + RESERVE);
    assert.ok(after(w.client.address) > before(w.client.address) + toNano("0.09"));
  });

  test("a second deposit adds up and keeps no second reserve, whoever sends it", async () => {
    const w = await World.create();
    await w.deposit(toNano(10));
    const { after } = await conserved(w, () => w.deposit(toNano(1), { from: w.anyone }));
    assert.equal((await w.jobState()).deposited, toNano(11));
    assert.equal(after(w.job), toNano(11) + RESERVE);
  });

  test("too little value, or no amount, is refused", async () => {
    const w = await World.create();
    const gas = toNano("0.01");
    await refused(w, await w.deposit(toNano(10), { value: toNano(10) + RESERVE + gas - 1n }), "VALUE_TOO_LOW");
    await refused(w, await w.deposit(0n), "AMOUNT_ZERO");
    assert.equal(exitCode(await w.deposit(toNano(10), { value: toNano(10) + RESERVE + gas }), w.job), 0);
  });

  test("an unknown opcode and a plain transfer bounce", async () => {
    const w = await World.create();
    await w.deposit();
    await refused(w, await w.send(w.client, w.job, w.body(0xdeadbeef)), "UNKNOWN_OPCODE");
    await refused(w, await w.send(w.client, w.job, beginCell().endCell()), "UNKNOWN_OPCODE");
  });
});

describe("release", () => {
  test("a good verdict releases to its receipt key; the sender pays, the rest returns", async () => {
    const w = await World.create();
    await w.deposit();
    const { res, before, after } = await conserved(w, () => w.release());
    within(txOf(res, w.registry), "checkVerdict");
    within(txOf(res, w.job), "recorded");
    const st = await w.jobState();
    assert.equal(st.status, status.released);
    assert.equal(st.verdictCount, 1);
    const s = st.verdicts.get(num(w.common().hash())).beginParse();
    assert.deepEqual([s.loadUintBig(256), s.loadUint(32), s.loadUint(32)], [hash("receipt key"), w.chain.now, w.chain.now + 1800]);
    assert.equal(after(w.job), before(w.job), "the escrow pays nothing for a release");
    assert.equal(after(w.registry), before(w.registry));
    assert.ok(after(w.anyone.address) > before(w.anyone.address) + toNano("0.08"));
  });

  test("the least value is enough, a nanoton less is refused", async () => {
    const w = await World.create();
    await w.deposit();
    assert.equal(exitCode(await w.release(w.verdict(), { value: toNano("0.05") - 1n }), w.registry), code.VALUE_TOO_LOW);
    await w.release(w.verdict(), { value: toNano("0.05") });
    assert.equal((await w.jobState()).status, status.released);
  });

  const byRegistry = [
    ["an unregistered manifest", "MANIFEST_UNKNOWN", (w) => w.verdict({ manifest: hash("other") })],
    ["an expired verdict", "VERDICT_EXPIRED", (w) => w.verdict({}, { expiresAt: w.chain.now })],
    ["a forged signature", "SIGNATURE_INVALID", (w) => w.verdict({}, { forge: true })],
    ["a wrong trust class", "TRUST_CLASS_REFUSED", (w) => w.verdict({ trustClass: 9 })],
    ["another chain", "VERDICT_GLOBAL_ID", (w) => w.verdict({ globalId: 5 })],
    ["another registry", "VERDICT_REGISTRY", (w) => w.verdict({ registry: w.job })],
    ["another model", "MODEL_UNKNOWN", (w) => w.verdict({ modelRoot: hash("other") })],
  ];
  for (const [what, want, make] of byRegistry) {
    test(`${what} is refused by the registry; the job hears nothing of it`, async () => {
      const w = await World.create();
      await w.deposit();
      const { res, after, before } = await conserved(w, () => w.release(make(w)));
      assert.equal(exitCode(res, w.registry), code[want]);
      assert.equal(txsOf(res, w.job).length, 0);
      assert.ok(after(w.anyone.address) > before(w.anyone.address) + toNano("0.08"));
      await w.release();
      assert.equal((await w.jobState()).status, status.released, "a good verdict still works");
    });
  }

  /** The job refuses; what the registry sent comes back to who sent the verdict. */
  const refusedByJob = async (w, verdict, want) => {
    const state = await w.data(w.job);
    const { res, after, before } = await conserved(w, () => w.release(verdict, { queryId: 9 }));
    assert.equal(exitCode(res, w.registry), 0);
    assert.equal(exitCode(res, w.job), code[want]);
    within(txOf(res, w.job), "refused");
    const back = txsOf(res, w.registry).at(-1);
    assert.ok(back.inMessage.info.bounced);
    assert.equal(exitCode({ transactions: [back] }, w.registry), 0);
    within(back, "returned");
    const s = txsOf(res, w.anyone.address).at(-1).inMessage.body.beginParse();
    assert.deepEqual([s.loadUint(32), s.loadUint(64)], [op.excesses, 9]);
    assert.ok(after(w.anyone.address) > before(w.anyone.address) + toNano("0.08"));
    assert.equal(after(w.registry), before(w.registry), "nothing of it stays in the registry");
    assert.equal(after(w.job), before(w.job), "nor does the escrow pay for it");
    assert.ok(state.equals(await w.data(w.job)));
  };

  test("a verdict for another payout, model or policy is refused by the job", async () => {
    const w = await World.create({ registry: {
      models: [{ root: hash("model") }, { root: hash("model 2") }], policies: [hash("policy"), hash("policy 2")],
    } });
    await w.deposit();
    for (const over of [{ payout: w.anyone.address }, { modelRoot: hash("model 2") }, { policyHash: hash("policy 2") }]) {
      await refusedByJob(w, w.verdict(over), "VERDICT_WRONG_TERMS");
    }
    assert.equal((await w.jobState()).status, status.funded);
  });

  test("a gateway's share over the registry's cap is refused by the job", async () => {
    const w = await World.create({ registry: { feeCapBps: 499 } });
    await w.deposit();
    await refusedByJob(w, w.verdict(), "FEE_OVER_CAP");
    const even = await World.create({ registry: { feeCapBps: 500 } });
    await even.deposit();
    await even.release();
    assert.equal((await even.jobState()).status, status.released);
  });

  test("a manifest in grace renews and does not release", async () => {
    const over = { manifest: hash("old") };
    const registry = { manifests: [{ hash: hash("manifest") }, { hash: hash("old"), state: 2, graceUntil: 0xffffffff }] };
    const w = await World.create({ registry });
    await w.deposit();
    await refusedByJob(w, w.verdict(over), "MANIFEST_RENEWALS_ONLY");
    await w.release();
    await w.release(w.verdict(over));
    assert.equal((await w.jobState()).verdictCount, 2);
  });

  test("before a deposit there is nothing to release", async () => {
    const w = await World.create();
    await w.send(w.client, w.job, w.body(op.close), { init: w.jobInit, value: 1n, bounce: false });
    const res = await w.send(w.registry, w.job, (await w.good({ value: 1n })).transactions[0].inMessage.body, { init: w.jobInit });
    assert.equal(exitCode(res, w.job), code.JOB_NOT_FUNDED);
  });

  test("a job that is not there: the money comes back over the registry", async () => {
    const w = await World.create();
    const { before, after } = await conserved(w, () => w.release());
    assert.ok(after(w.anyone.address) > before(w.anyone.address) + toNano("0.08"));
    assert.equal(after(w.registry), before(w.registry));
  });

  test("a verdict that the registry cannot parse is refused with the machine's code", async () => {
    const w = await World.create();
    await w.deposit();
    const v = w.verdict();
    const bad = beginCell().storeRef(v.refs[0]).storeRef(beginCell().storeUint(1, 8).endCell()).endCell();
    assert.equal(exitCode(await w.release(bad), w.registry), 9);
    assert.equal((await w.jobState()).status, status.funded);
  });

  test("only the job's registry is believed", async () => {
    const w = await World.create();
    await w.deposit();
    for (const from of [w.anyone, w.client, w.payout]) await refused(w, await w.good({ from }), "NOT_REGISTRY");
    assert.equal((await w.jobState()).status, status.funded);
    const other = await World.create({ registry: { feeCapBps: 10000 } });
    await other.deposit();
    await refused(w, await w.good({ from: other.registry }), "NOT_REGISTRY");
    assert.equal(exitCode(await w.good(), w.job), 0);
  });

  test("a word that was long under way does not count after the verdict's end", async () => {
    const w = await World.create();
    await w.deposit();
    assert.equal(exitCode(await w.good({ until: w.chain.now }), w.job), code.VERDICT_EXPIRED);
    assert.equal(exitCode(await w.good({ until: w.chain.now + 1 }), w.job), 0);
  });

  test("the same verdict, told twice, counts once", async () => {
    const w = await World.create();
    await w.deposit();
    assert.equal(exitCode(await w.good(), w.job), 0);
    assert.equal(exitCode(await w.good(), w.job), code.VERDICT_ALREADY_RECORDED);
    assert.equal((await w.jobState()).verdictCount, 1);
  });

  test("what looks like a bounce and is none moves only its own money", async () => {
    const w = await World.create();
    const before = await w.balance(w.registry);
    for (const body of [beginCell().endCell(), beginCell().storeUint(0xffffffff, 32).storeUint(op.verdictGood, 32).endCell(),
      beginCell().storeUint(0xfffffffe, 32).storeRef(beginCell().storeUint(op.verdictGood, 32).endCell()).endCell()]) {
      const res = await w.chain.sendMessage(internal({ from: w.job, to: w.registry, value: toNano("0.05"), body, bounced: true, bounce: false }), { now: w.chain.now });
      assert.notEqual(exitCode(res, w.registry), 0);
    }
    assert.ok(await w.balance(w.registry) >= before);
  });
});

describe("renewal", () => {
  test("adds a verdict and a receipt key; vouchers on either are good", async () => {
    const w = await released();
    const over = { evidence: hash("evidence 2"), receiptKey: hash("receipt key 2") };
    await w.release(w.verdict(over));
    const st = await w.jobState();
    assert.equal(st.verdictCount, 2);
    const second = num(w.common(over).hash());
    assert.equal(st.verdicts.get(second).beginParse().loadUintBig(256), hash("receipt key 2"));
    assert.equal(exitCode(await w.redeem(w.voucher({ seq: 1, amount: 5n })), w.job), 0);
    assert.equal(exitCode(await w.redeem(w.voucher({ seq: 2, amount: 6n, verdictHash: second })), w.job), 0);
  });

  test("with another payout, or the same verdict again, is refused", async () => {
    const w = await released();
    assert.equal(exitCode(await w.release(w.verdict({ payout: w.anyone.address, evidence: 5n })), w.job), code.VERDICT_WRONG_TERMS);
    assert.equal(exitCode(await w.release(), w.job), code.VERDICT_ALREADY_RECORDED);
  });

  test("a refused renewal leaves the job released", async () => {
    const w = await released();
    assert.equal(exitCode(await w.release(w.verdict({ evidence: 5n }, { forge: true })), w.registry), code.SIGNATURE_INVALID);
    const st = await w.jobState();
    assert.equal(st.status, status.released);
    assert.equal(st.verdictCount, 1);
  });
});

describe("the largest job", () => {
  test("256 verdicts, not one more; the least values still suffice", async () => {
    const w = await released();
    let last;
    for (let i = 1; i < 256; i++) last = await w.release(w.verdict({ evidence: BigInt(i) }), { value: toNano("0.05") });
    const st = await w.jobState();
    assert.equal(st.verdictCount, 256);
    within(txOf(last, w.job), "recordedFull");
    assert.equal(exitCode(await w.release(w.verdict({ evidence: 999n })), w.job), code.VERDICTS_FULL);
    const res = await w.redeem(w.voucher({ amount: toNano(10) }), { value: toNano("0.02") });
    assert.equal(exitCode(res, w.job), 0);
    within(txOf(res, w.job), "redeemFull");
    assert.equal((await w.jobState()).paid, toNano(10));
  });

  test("sixteen signatures fit into the least value of a release", async () => {
    const verifiers = Array.from({ length: 16 }, (_, i) => keys("v" + i));
    const w = await World.create({ registry: { verifiers, threshold: 16 } });
    await w.deposit();
    const now = w.chain.now;
    const v = verdictCell(w.common(), verifiers.map((kp) => ({ kp, issuedAt: now, expiresAt: now + 60 })));
    const res = await w.release(v, { value: toNano("0.05") });
    within(txOf(res, w.registry), "checkSixteen");
    assert.equal((await w.jobState()).status, status.released);
  });
});

describe("redeem", () => {
  test("pays worker and gateway exactly; the sender pays the gas", async () => {
    const w = await released();
    const { res, before, after } = await conserved(w, () => w.redeem(w.voucher({ amount: 1_000_000_019n })));
    within(txOf(res, w.job), "redeem");
    const fee = (1_000_000_019n * 500n) / 10000n;
    const credit = (a) => txsOf(res, a).reduce((s, t) => s + t.inMessage.info.value.coins, 0n);
    assert.equal(credit(w.payout.address), 1_000_000_019n - fee);
    assert.equal(credit(w.gateway.address), fee);
    assert.equal(before(w.job) - after(w.job), 1_000_000_019n);
    const st = await w.jobState();
    assert.deepEqual([st.paid, st.seq, st.receiptCount, st.receiptsRoot], [1_000_000_019n, 1n, 1n, 99n]);
  });

  test("the worker's own redemption takes one message less", async () => {
    const w = await released();
    const { res, before, after } = await conserved(w, () => w.redeem(w.voucher({ amount: 1_000_000_019n }), { from: w.payout }));
    within(txOf(res, w.job), "redeemOwn");
    const fee = (1_000_000_019n * 500n) / 10000n;
    const [paid, ...more] = txsOf(res, w.payout.address);
    assert.equal(more.length, 0);
    const s = paid.inMessage.body.beginParse();
    assert.deepEqual([s.loadUint(32), s.loadUintBig(64), s.loadCoins()], [op.paid, 0n, 1_000_000_019n - fee]);
    assert.ok(paid.inMessage.info.value.coins > 1_000_000_019n - fee, "the rest of the value comes with it");
    assert.equal(before(w.job) - after(w.job), 1_000_000_019n);
  });

  test("the gateway's total does not depend on how many vouchers there were", async () => {
    const totals = [];
    for (const steps of [[999n], [7n, 333n, 500n, 999n]]) {
      const w = await released();
      let total = 0n;
      let seq = 0;
      for (const amount of steps) {
        const res = await w.redeem(w.voucher({ seq: ++seq, amount }));
        assert.equal(exitCode(res, w.job), 0);
        total += txsOf(res, w.gateway.address).reduce((s, t) => s + t.inMessage.info.value.coins, 0n);
      }
      totals.push(total);
    }
    assert.deepEqual(totals, [49n, 49n]);
  });

  test("without a gateway the worker gets all", async () => {
    const w = await released({ terms: { gateway: null, feeBps: 500 } });
    const { res } = await conserved(w, () => w.redeem(w.voucher({ amount: toNano(3) })));
    within(txOf(res, w.job), "redeemNoFee");
    assert.equal(txsOf(res, w.payout.address)[0].inMessage.info.value.coins, toNano(3));
  });

  test("the whole deposit can be redeemed, not a nanoton more", async () => {
    const w = await released();
    const { after } = await conserved(w, () => w.redeem(w.voucher({ amount: toNano(10) })));
    assert.equal(after(w.job), RESERVE);
    await refused(w, await w.redeem(w.voucher({ seq: 2, amount: toNano(10) + 1n })), "VOUCHER_OVER_DEPOSIT");
  });

  test("the least value is enough, a nanoton less is refused", async () => {
    const w = await released();
    await refused(w, await w.redeem(w.voucher(), { value: toNano("0.02") - 1n }), "VALUE_TOO_LOW");
    assert.equal(exitCode(await w.redeem(w.voucher(), { value: toNano("0.02") }), w.job), 0);
    assert.equal((await w.jobState()).seq, 1n);
  });

  test("a replay gains nothing", async () => {
    const w = await released();
    const v = w.voucher({ amount: toNano(2) });
    assert.equal(exitCode(await w.redeem(v), w.job), 0);
    const before = await w.balance(w.job);
    const res = await w.redeem(v);
    await refused(w, res, "VOUCHER_REPLAYED");
    within(txOf(res, w.job), "replayed");
    await refused(w, await w.redeem(w.voucher({ seq: 2, amount: toNano(2) })), "VOUCHER_NOT_HIGHER");
    await refused(w, await w.redeem(w.voucher({ seq: 2, amount: toNano(3), count: 0 })), "VOUCHER_COUNT_LOWER");
    assert.equal(await w.balance(w.job), before);
  });

  const forged = [
    ["another key's signature", "VOUCHER_SIGNATURE", (w) => w.redeem(w.voucher(), { kp: keys("thief") })],
    ["a flipped signature bit", "VOUCHER_SIGNATURE", (w) => w.redeem(w.voucher(), { signature: Buffer.alloc(64, 7) })],
    ["another job's voucher", "VOUCHER_WRONG_TARGET", (w) => w.redeem(w.voucher({ job: w.registry }))],
    ["another chain's voucher", "VOUCHER_WRONG_TARGET", (w) => w.redeem(w.voucher({ globalId: -3 }))],
    ["a verdict that never released", "VOUCHER_VERDICT_UNKNOWN", (w) => w.redeem(w.voucher({ verdictHash: 5n }))],
  ];
  for (const [what, want, run] of forged) {
    test(`${what} is refused`, async () => {
      const w = await released();
      const before = await w.balance(w.job);
      await refused(w, await run(w), want);
      assert.equal(await w.balance(w.job), before);
    });
  }

  test("a cell that is not a voucher is refused", async () => {
    const w = await released();
    assert.equal(exitCode(await w.redeem(w.voucher({ tag: 0x43565331 })), w.job), 9);
  });

  test("before the release nothing is redeemed", async () => {
    const w = await World.create();
    await w.deposit();
    await refused(w, await w.redeem(), "JOB_NOT_RELEASED");
  });

  test("a paused registry does not stop redeem, close or finish", async () => {
    const w = await released();
    await w.now([entry.paused(true)]);
    assert.equal(exitCode(await w.redeem(), w.job), 0);
    assert.equal(exitCode(await w.close(), w.job), 0);
    w.chain.now += HOUR;
    assert.equal(exitCode(await w.finish(), w.job), 0);
    assert.equal(await w.balance(w.job), 0n);
  });
});

describe("close", () => {
  test("a job that was never released refunds everything at once", async () => {
    const w = await World.create();
    await w.deposit();
    const { res, after } = await conserved(w, () => w.close());
    within(txOf(res, w.job), "settle");
    assert.equal(after(w.job), 0n);
    assert.equal((await w.jobState()).status, status.closed);
    const paid = txsOf(res, w.client.address);
    assert.equal(paid.length, 1, "the refund and the rest of the value come in one message");
    assert.ok(paid[0].inMessage.info.value.coins > toNano(10) + RESERVE);
  });

  test("a released job waits out its delay; a later voucher still wins; the rest is refunded", async () => {
    const w = await released();
    await w.redeem(w.voucher({ amount: toNano(2) }));
    const closing = await conserved(w, () => w.close());
    within(txOf(closing.res, w.job), "close");
    assert.equal((await w.jobState()).closeAt, w.chain.now + HOUR);
    await refused(w, await w.close(), "ALREADY_CLOSING");
    await refused(w, await w.finish(), "CLOSE_TOO_EARLY");
    await refused(w, await w.deposit(), "JOB_NOT_OPEN");
    assert.equal(exitCode(await w.release(w.verdict({ evidence: 4n })), w.job), code.JOB_NOT_OPEN);
    w.chain.now += HOUR - 1;
    await refused(w, await w.finish(), "CLOSE_TOO_EARLY");
    assert.equal(exitCode(await w.redeem(w.voucher({ seq: 2, amount: toNano(5) })), w.job), 0);
    w.chain.now += 1;
    const rest = await w.balance(w.job);
    const { res, after } = await conserved(w, () => w.finish());
    within(txOf(res, w.job), "finish");
    assert.equal(after(w.job), 0n);
    const storage = txOf(res, w.job).description.storagePhase.storageFeesCollected;
    assert.equal(txsOf(res, w.client.address)[0].inMessage.info.value.coins, rest - storage);
  });

  test("only client and worker close; anyone finishes", async () => {
    const w = await released();
    await refused(w, await w.close(w.anyone), "NOT_CLIENT");
    await refused(w, await w.close(w.gateway), "NOT_CLIENT");
    await refused(w, await w.finish(), "NOT_CLOSING");
  });

  test("closed is final: every operation is refused and the state stays", async () => {
    const w = await released();
    await w.close();
    w.chain.now += HOUR;
    await w.finish();
    const data = await w.data(w.job);
    await refused(w, await w.deposit(), "JOB_CLOSED");
    assert.equal(exitCode(await w.release(w.verdict({ evidence: 4n })), w.job), code.JOB_CLOSED);
    await refused(w, await w.redeem(), "JOB_CLOSED");
    await refused(w, await w.close(), "JOB_CLOSED");
    await refused(w, await w.finish(), "JOB_CLOSED");
    assert.ok(data.equals(await w.data(w.job)));
  });

  test("money that reaches a closed job goes to the client", async () => {
    const w = await World.create();
    await w.deposit();
    await w.close();
    await w.send(w.anyone, w.job, beginCell().endCell(), { value: toNano(1), bounce: false });
    assert.ok(await w.balance(w.job) > toNano("0.99"));
    const stuck = await w.balance(w.job);
    const { res, after } = await conserved(w, () => w.finish());
    assert.equal(after(w.job), 0n);
    assert.equal(txsOf(res, w.client.address)[0].inMessage.info.value.coins, stuck);
  });
});

describe("storage", () => {
  test("a year of storage is within the reserve", async () => {
    const w = await released();
    w.chain.now += 365 * 24 * HOUR;
    const { res } = await conserved(w, () => w.redeem(w.voucher({ amount: toNano(10) })));
    assert.equal(exitCode(res, w.job), 0);
    assert.ok(await w.balance(w.job) < RESERVE);
  });
});
