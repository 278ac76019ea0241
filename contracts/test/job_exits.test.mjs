// Every way out of a job: short deposits, absent parties, lapsed verdicts,
// closing at each status, dust, and messages that run out of gas. Money never
// sticks: what a step moves is accounted for to the nanoton.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { beginCell, toNano } from "@ton/core";
import {
  code, conserved, exitCode, hash, HOUR, manifestState, num, op, refused, released, RESERVE, status,
  txOf, txsOf, World,
} from "./world.mjs";

const DAY = 24 * HOUR;
const credit = (res, a) => txsOf(res, a.address ?? a).reduce((s, t) => s + t.inMessage.info.value.coins, 0n);

describe("a deposit smaller than the voucher", () => {
  test("is paid out as far as it goes; a top-up lets the rest be redeemed with the same voucher", async () => {
    const w = await released();
    const v = w.voucher({ amount: toNano(15) });
    const first = await conserved(w, () => w.redeem(v));
    const fee = toNano(10) * 500n / 10000n;
    assert.equal(credit(first.res, w.payout), toNano(10) - fee);
    assert.equal(first.after(w.job), RESERVE);
    assert.equal((await w.jobState()).paid, toNano(10));
    await refused(w, await w.redeem(v), "VOUCHER_OVER_DEPOSIT");
    await w.deposit(toNano(3), { from: w.anyone });
    await conserved(w, () => w.redeem(v));
    assert.equal((await w.jobState()).paid, toNano(13));
    await w.deposit(toNano(4));
    await conserved(w, () => w.redeem(v));
    assert.equal((await w.jobState()).paid, toNano(15));
    await refused(w, await w.redeem(v), "VOUCHER_REPLAYED");
    assert.ok(await w.balance(w.job) >= toNano(2) + RESERVE);
  });

  test("the gateway gets its share of what is paid, not of what is promised", async () => {
    const w = await released();
    let gateway = 0n;
    const v = w.voucher({ amount: 15_000_000_019n });
    gateway += credit(await w.redeem(v), w.gateway);
    await w.deposit(toNano(6));
    gateway += credit(await w.redeem(v), w.gateway);
    assert.equal(gateway, 15_000_000_019n * 500n / 10000n);
  });

  test("storage that ate the reserve and more is no obstacle", async () => {
    const w = await released();
    w.chain.now += 30 * 365 * DAY; // about a third of a TON of rent
    const { res, after } = await conserved(w, () => w.redeem(w.voucher({ amount: toNano(10) })));
    assert.equal(exitCode(res, w.job), 0);
    const { paid } = await w.jobState();
    assert.ok(paid < toNano(10) && paid > toNano(9), `${paid} was paid`);
    assert.equal(after(w.job), 0n);
    await w.deposit(toNano(1));
    assert.equal(exitCode(await w.redeem(w.voucher({ amount: toNano(10) })), w.job), 0);
    assert.equal((await w.jobState()).paid, toNano(10));
  });
});

describe("parties that do not show up", () => {
  test("no worker: the client closes at once and gets everything", async () => {
    const w = await World.create();
    await w.deposit();
    const { res, after } = await conserved(w, () => w.close());
    assert.equal(after(w.job), 0n);
    assert.ok(credit(res, w.client) > toNano(10) + RESERVE);
  });

  test("no client: the worker redeems, closes and lets the rest go to the client", async () => {
    const w = await released();
    await w.redeem(w.voucher({ amount: toNano(4) }), { from: w.payout });
    const closing = await conserved(w, () => w.close(w.payout));
    assert.equal(exitCode(closing.res, w.job), 0);
    assert.equal((await w.jobState()).status, status.closing);
    w.chain.now += HOUR;
    const { res, after } = await conserved(w, () => w.finish(w.payout));
    assert.equal(after(w.job), 0n);
    assert.ok(credit(res, w.client) > toNano(6));
  });

  test("the worker cannot close what was not released to it", async () => {
    const w = await World.create();
    await w.deposit();
    await refused(w, await w.close(w.payout), "NOT_CLIENT");
  });

  for (const [what, make] of [["funded", async () => { const w = await World.create(); await w.deposit(); return w; }], ["released", () => released()]]) {
    test(`neither: anyone may close a ${what} job after 90 idle days, for the client`, async () => {
      const w = await make();
      w.chain.now += 90 * DAY;
      await refused(w, await w.close(w.anyone), "NOT_CLIENT");
      w.chain.now += 1;
      await conserved(w, () => w.close(w.anyone));
      if (what === "released") {
        w.chain.now += HOUR;
        await conserved(w, () => w.finish(w.anyone));
      }
      assert.equal((await w.jobState()).status, status.closed);
      assert.equal(await w.balance(w.job), 0n);
    });
  }

  test("a redemption keeps a job from being idle", async () => {
    const w = await released();
    w.chain.now += 89 * DAY;
    await w.redeem();
    w.chain.now += 2 * DAY;
    await refused(w, await w.close(w.anyone), "NOT_CLIENT");
  });
});

describe("closing while the registry's answer is awaited", () => {
  const pendingAndClosed = async () => {
    const w = await World.create();
    await w.deposit();
    const pending = await w.releaseWithoutAnswer();
    const { res, before, after } = await conserved(w, () => w.close());
    assert.equal(exitCode(res, w.job), 0);
    assert.equal(after(w.job), before(w.job));
    const st = await w.jobState();
    assert.deepEqual([st.status, st.closeAt], [status.pending, w.chain.now]);
    return { w, pending };
  };

  test("a good answer begins the closing delay; the worker keeps its chance to redeem", async () => {
    const { w, pending } = await pendingAndClosed();
    await refused(w, await w.close(), "ALREADY_CLOSING");
    await refused(w, await w.deposit(), "JOB_NOT_OPEN");
    await conserved(w, () => w.answer(pending));
    const st = await w.jobState();
    assert.deepEqual([st.status, st.closeAt], [status.closing, w.chain.now + HOUR]);
    assert.equal(exitCode(await w.redeem(), w.job), 0);
  });

  test("a refusal closes and refunds", async () => {
    const { w, pending } = await pendingAndClosed();
    const { res, after } = await conserved(w, () => w.answer(pending, { answerCode: code.MANIFEST_UNKNOWN }));
    assert.equal((await w.jobState()).status, status.closed);
    assert.equal(after(w.job), 0n);
    assert.equal(txsOf(res, w.client.address)[0].inMessage.info.value.coins, toNano(10) + RESERVE);
  });

  test("a bounce closes and refunds", async () => {
    const { w, pending } = await pendingAndClosed();
    await w.bounced(pending.queryId);
    assert.equal((await w.jobState()).status, status.closed);
    assert.equal(await w.balance(w.job), 0n);
  });

  test("no answer: after the deadline anyone finishes it, and no verdict can reopen it", async () => {
    const { w } = await pendingAndClosed();
    await refused(w, await w.finish(), "CLOSE_TOO_EARLY");
    w.chain.now += 301;
    await refused(w, await w.release(w.verdict({ evidence: 4n })), "JOB_NOT_OPEN");
    const { after } = await conserved(w, () => w.finish());
    assert.equal((await w.jobState()).status, status.closed);
    assert.equal(after(w.job), 0n);
  });
});

describe("verdicts that end", () => {
  test("vouchers on a verdict that has lapsed are redeemed; a renewal adds the next", async () => {
    const w = await released();
    w.chain.now += 2 * HOUR;
    assert.equal(exitCode(await w.redeem(w.voucher({ amount: toNano(1) })), w.job), 0);
    const over = { evidence: hash("evidence 2"), receiptKey: hash("receipt key 2") };
    await w.release(w.verdict(over));
    assert.equal((await w.jobState()).verdictCount, 2);
    const second = num(w.common(over).hash());
    assert.equal(exitCode(await w.redeem(w.voucher({ seq: 2, amount: toNano(2), verdictHash: second })), w.job), 0);
    assert.equal(exitCode(await w.redeem(w.voucher({ seq: 3, amount: toNano(3) })), w.job), 0, "the lapsed one too");
  });

  test("the answer to a renewal that comes too late leaves the job released", async () => {
    const w = await released();
    const pending = await w.releaseWithoutAnswer(w.verdict({ evidence: 7n }));
    w.chain.now += 301;
    await conserved(w, () => w.answer(pending));
    const st = await w.jobState();
    assert.deepEqual([st.status, st.verdictCount, st.refusal.code], [status.released, 1, code.QUERY_TIMED_OUT]);
    assert.equal(exitCode(await w.redeem(), w.job), 0);
  });

  test("redeeming goes on while a renewal is awaited, and its answer still counts", async () => {
    const w = await released();
    const pending = await w.releaseWithoutAnswer(w.verdict({ evidence: 7n }));
    assert.equal(exitCode(await w.redeem(), w.job), 0);
    await w.answer(pending);
    assert.equal((await w.jobState()).verdictCount, 2);
  });
});

describe("dust", () => {
  test("a voucher for one nanoton pays one nanoton", async () => {
    const w = await released();
    const { res } = await conserved(w, () => w.redeem(w.voucher({ amount: 1n })));
    assert.equal(credit(res, w.payout), 1n);
    assert.equal(credit(res, w.gateway), 0n);
  });

  test("a job of one nanoton opens, pays and closes", async () => {
    const w = await World.create();
    await conserved(w, () => w.deposit(1n));
    await w.release();
    await conserved(w, () => w.redeem(w.voucher({ amount: 5n })));
    assert.equal((await w.jobState()).paid, 1n);
    await w.close();
    w.chain.now += HOUR;
    const { after } = await conserved(w, () => w.finish());
    assert.equal(after(w.job), 0n);
  });
});

describe("parties that are the same or refuse money", () => {
  test("a worker that is its own gateway, and a client that is its own worker", async () => {
    const w = await World.create();
    w.terms = { ...w.terms };
    for (const terms of [{ gateway: w.payout.address }, { payout: w.client.address }]) {
      const v = await released({ terms });
      await conserved(v, () => v.redeem(v.voucher({ amount: toNano(4), verdictHash: num(v.common({ payout: v.terms.payout }).hash()) })))
        .catch((e) => { throw e; });
    }
  });

  test("a payout without a contract keeps its money", async () => {
    const payout = World.cold("nobody's");
    const w = await released({ terms: { payout } });
    const before = await w.balance(payout);
    const res = await w.redeem(w.voucher({ amount: toNano(1), verdictHash: num(w.common({ payout }).hash()) }));
    assert.equal(exitCode(res, w.job), 0);
    assert.equal(await w.balance(payout) - before, toNano(1) - toNano(1) * 500n / 10000n);
    assert.ok(!res.transactions.some((t) => t.inMessage?.info.bounced));
  });
});

describe("out of gas", () => {
  const steps = [
    ["deposit", async () => { const w = await World.create(); await w.deposit(); return w; }, (w, value) => w.deposit(toNano(1), { value })],
    ["release", async () => { const w = await World.create(); await w.deposit(); return w; }, (w, value) => w.release(w.verdict(), { value })],
    ["redeem", () => released(), (w, value) => w.redeem(w.voucher(), { value })],
    ["close", () => released(), (w, value) => w.send(w.client, w.job, w.body(op.close), { value })],
    ["finish", async () => { const w = await released(); await w.close(); w.chain.now += HOUR; return w; },
      (w, value) => w.send(w.anyone, w.job, w.body(op.finish), { value })],
  ];
  for (const [name, make, run] of steps) {
    test(`${name} with any value below the least changes nothing and costs the escrow nothing`, async () => {
      const w = await make();
      const state = async () => (await w.data(w.job)).hash().toString("hex");
      await run(w, 0n); // collects the storage fees until now
      const before = { data: await state(), balance: await w.balance(w.job) };
      for (const value of [1n, 400_000n, 800_000n, 1_200_000n, 1_600_000n, 2_000_000n, 2_400_000n, 2_800_000n, 3_200_000n, 4_000_000n, 6_000_000n, 9_000_000n]) {
        const res = await run(w, value);
        assert.notEqual(exitCode(res, w.job), 0, `${name} with ${value} went through`);
        assert.equal(await state(), before.data, `${name} with ${value} changed the state`);
        assert.ok(await w.balance(w.job) >= before.balance, `${name} with ${value} cost the escrow`);
      }
    });
  }

  test("an answer that brings too little leaves the job pending until its deadline, no longer", async () => {
    const w = await World.create();
    await w.deposit();
    const pending = await w.releaseWithoutAnswer();
    const before = await w.balance(w.job);
    for (const value of [1n, 400_000n, 1_000_000n, 2_000_000n]) {
      const res = await w.answer(pending, { value });
      assert.notEqual(exitCode(res, w.job), 0);
      assert.equal((await w.jobState()).status, status.pending);
      assert.ok(await w.balance(w.job) >= before);
    }
    w.chain.now += 301;
    await w.release();
    assert.equal((await w.jobState()).status, status.released);
  });

  test("an accusation with too little value is refused", async () => {
    const w = await released();
    const res = await w.send(w.anyone, w.job, w.body(op.accuse, (b) => b.storeUint(1, 256).storeUint(1, 64)
      .storeRef(beginCell().endCell()).storeRef(beginCell().endCell())), { value: toNano("0.05") - 1n });
    await refused(w, res, "VALUE_TOO_LOW");
  });
});

describe("a manifest that is revoked during the job", () => {
  test("ends renewals; what was earned is redeemed and the rest refunded", async () => {
    const w = await released();
    await w.setManifest(w.manifest, manifestState.revoked);
    await w.release(w.verdict({ evidence: 9n }));
    const st = await w.jobState();
    assert.deepEqual([st.status, st.refusal.code], [status.released, code.MANIFEST_REVOKED]);
    assert.equal(exitCode(await w.redeem(w.voucher({ amount: toNano(4) })), w.job), 0);
    await w.close();
    w.chain.now += HOUR;
    const { res, after } = await conserved(w, () => w.finish());
    assert.equal(after(w.job), 0n);
    assert.ok(credit(res, w.client) > toNano(6));
  });
});
