// Every way out of a job: short deposits, absent parties, lapsed verdicts,
// closing at each status and dust. Messages that run out of gas are in
// gas.test.mjs. Money never sticks: what a step moves is accounted for to the nanoton.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { toNano } from "@ton/core";
import {
  code, conserved, exitCode, hash, HOUR, manifestState, num, refused, released, RESERVE, status,
  txsOf, World,
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

describe("closing while a verdict is under way", () => {
  test("a word that arrives after the refund is refused, and its money goes back", async () => {
    const w = await World.create();
    await w.deposit();
    await w.close();
    const { res, after } = await conserved(w, () => w.release());
    assert.equal(exitCode(res, w.job), code.JOB_CLOSED);
    assert.equal(after(w.job), 0n);
  });

  test("a word that arrives in the closing delay does not reopen the job", async () => {
    const w = await released();
    await w.close();
    assert.equal(exitCode(await w.good({ verdictHash: 5n }), w.job), code.JOB_NOT_OPEN);
    assert.equal((await w.jobState()).status, status.closing);
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

describe("a manifest that is revoked during the job", () => {
  test("ends renewals; what was earned is redeemed and the rest refunded", async () => {
    const w = await released();
    await w.setManifest(w.manifest, manifestState.revoked);
    assert.equal(exitCode(await w.release(w.verdict({ evidence: 9n })), w.registry), code.MANIFEST_REVOKED);
    assert.equal((await w.jobState()).status, status.released);
    assert.equal(exitCode(await w.redeem(w.voucher({ amount: toNano(4) })), w.job), 0);
    await w.close();
    w.chain.now += HOUR;
    const { res, after } = await conserved(w, () => w.finish());
    assert.equal(after(w.job), 0n);
    assert.ok(credit(res, w.client) > toNano(6));
  });
});
