// Messages that bring too little. Whatever a message's value is, either all of
// it happens or nothing: the state is untouched, the contract has lost nothing
// but its storage, and no nanoton appears or vanishes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { beginCell, toNano } from "@ton/core";
import { internal } from "@ton/sandbox";
import { DAY, entry, exitCode, fresh, hash, HOUR, keyId, keys, num, op, OWNERS, ownerSignatures, released, txOf, txsOf, verdictCell, World } from "./world.mjs";
import { commonOver, DELAY, leave, releasedWithStake, signedReceipt, staked, wop } from "./worker_world.mjs";
import { claimBody, grantBody, slashBody } from "./registry_helpers.mjs";

const values = [1n, 100_000n, 400_000n, 800_000n, 1_200_000n, 1_600_000n, 2_000_000n, 2_400_000n, 2_800_000n, 3_200_000n, 3_600_000n,
  4_000_000n, 5_000_000n, 6_000_000n, 7_000_000n, 8_000_000n, 9_000_000n];

/** Every contract's and wallet's balance. */
const balances = async (w) => {
  const at = [w.worker, w.job, w.registry, ...["owner", "client", "payout", "gateway", "anyone"].map((n) => w[n].address)].filter(Boolean);
  let sum = 0n;
  for (const a of at) sum += await w.balance(a);
  return sum;
};

/** Runs a step; returns its result after checking that the sum is kept. */
async function summed(w, step) {
  const before = await balances(w);
  const res = await step();
  let fees = 0n;
  for (const tx of res.transactions) {
    fees += tx.totalFees.coins;
    for (const m of tx.outMessages.values()) if (m.info.type === "internal") fees += m.info.forwardFee;
  }
  assert.equal(before + res.transactions[0].inMessage.info.value.coins, await balances(w) + fees, "sum in = sum out + fees");
  return res;
}

/**
 * Sends the message to `at` with ever more value, until it goes through or the
 * values end; every failure must change nothing there.
 */
async function starve(w, at, send) {
  const state = async () => (await w.data(at)).hash().toString("hex");
  await send(0n); // collects the storage fees until now
  const before = { data: await state(), balance: await w.balance(at) };
  let kept = 0n;
  for (const value of values) {
    const res = await summed(w, () => send(value));
    if (exitCode(res, at) === 0 && txOf(res, at).description.actionPhase?.success) {
      return value;
    }
    assert.equal(await state(), before.data, `changed the state with ${value}`);
    // What does not pay for its own way back stays.
    if (txOf(res, at).outMessages.size === 0) kept += value;
    const now = await w.balance(at);
    assert.ok(now >= before.balance && now <= before.balance + kept, `${now - before.balance} more with ${value}`);
  }
  return null;
}

const steps = {
  "job Deposit": async () => { const w = await World.create(); await w.deposit(); return [w, w.job, (value) => w.deposit(toNano(1), { value })]; },
  "job Redeem": async () => { const w = await released(); return [w, w.job, (value) => w.redeem(w.voucher(), { value })]; },
  "job Close": async () => { const w = await released(); return [w, w.job, (value) => w.send(w.client, w.job, w.body(op.close), { value })]; },
  "job Close, before a release": async () => { const w = await World.create(); await w.deposit(); return [w, w.job, (value) => w.send(w.client, w.job, w.body(op.close), { value })]; },
  "job Finish": async () => {
    const w = await released();
    await w.close();
    w.chain.now += HOUR;
    return [w, w.job, (value) => w.send(w.anyone, w.job, w.body(op.finish), { value })];
  },
  "job Accuse": async () => {
    const w = await releasedWithStake();
    return [w, w.job, (value) => w.send(w.anyone, w.job, w.body(op.accuse, (b) => b.storeUint(num(w.common(commonOver).hash()), 256).storeUint(3, 64)
      .storeRef(signedReceipt(w, 3, "a")).storeRef(signedReceipt(w, 3, "b"))), { value })];
  },
  "worker Stake": async () => { const w = await staked(); return [w, w.worker, (value) => w.stake(toNano(1), { value })]; },
  "worker Leave": async () => { const w = await staked(); return [w, w.worker, (value) => w.send(w.owner, w.worker, w.body(wop.leave, (b) => b.storeCoins(1n)), { value })]; },
  "worker Withdraw": async () => {
    const w = await staked();
    await leave(w, toNano(1));
    w.chain.now += DELAY;
    return [w, w.worker, (value) => w.send(w.anyone, w.worker, w.body(wop.withdraw), { value })];
  },
  "worker Advance": async () => { const w = await staked(); return [w, w.worker, (value) => w.send(w.owner, w.worker, w.body(wop.advance, (b) => b.storeUint(1, 64)), { value })]; },
  "registry CheckVerdict": async () => { const w = await World.create(); await w.deposit(); return [w, w.registry, (value) => w.release(w.verdict(), { value })]; },
};

const two = ["a", "b"].map(keys);
const registry = async (opts) => World.create({ registry: { verifiers: two, threshold: 1, ...opts } });
const orderSteps = {
  "registry Propose": async () => {
    const w = await registry();
    const order = w.order([entry.manifest(hash("m2"))], { number: 1n });
    return [w, w.registry, (value) => w.propose([], { order, number: 1n, value })];
  },
  "registry Propose, an order that acts at once": async () => {
    const w = await registry();
    const order = w.order([entry.paused(true)], { number: 1n, later: false });
    return [w, w.registry, (value) => w.propose([], { order, number: 1n, value })];
  },
  "registry Execute": async () => {
    const w = await registry();
    const p = await w.propose([entry.manifest(hash("m2"))]);
    w.chain.now += 2 * DAY;
    return [w, w.registry, (value) => w.execute(p.number, { value })];
  },
  "registry Execute, a withdrawal": async () => {
    const w = await registry();
    const p = await w.propose([entry.withdraw(w.owner.address, toNano("0.05"))]);
    w.chain.now += 2 * DAY;
    return [w, w.registry, (value) => w.execute(p.number, { value })];
  },
  "registry Veto": async () => {
    const w = await registry();
    const p = await w.propose([entry.manifest(hash("m2"))]);
    const statement = beginCell().storeUint(0x434f5631, 32).storeInt(-239, 32).storeAddress(w.registry).storeBuffer(p.order.hash()).endCell();
    const list = ownerSignatures(statement.hash(), [[2, OWNERS[2]]]);
    return [w, w.registry, (value) => w.send(w.anyone, w.registry, w.body(op.veto, (b) => b.storeUint(p.number, 64).storeRef(list)), { value })];
  },
  "registry Claim": async () => {
    const w = await registry({ verifierFee: toNano("0.01") });
    await w.deposit();
    await w.release(verdictCell(w.common(), two.map((kp) => ({ kp, issuedAt: w.chain.now - 5, expiresAt: w.chain.now + 600 }))), { verifierFee: toNano("0.01") });
    return [w, w.registry, (value) => w.send(w.anyone, w.registry, claimBody(w, two[0]), { value })];
  },
  "registry PostBond": async () => { const w = await registry(); return [w, w.registry, (value) => w.send(w.anyone, w.registry, grantBody(w, two[0], toNano(1)), { value })]; },
  "registry Unbond": async () => {
    const w = await registry();
    await w.send(w.anyone, w.registry, grantBody(w, two[0], toNano(1)), { value: toNano("1.1") });
    return [w, w.registry, (value) => w.send(w.payout, w.registry, w.body(op.unbond, (b) => b.storeUint(keyId(two[0]), 256)), { value })];
  },
  "registry Schedule": async () => {
    const w = await registry();
    return [w, w.registry, (value) => w.schedule(fresh.manifest(hash("m2")), { number: 1n, value })];
  },
  "registry Schedule, a verifier": async () => {
    const w = await registry();
    return [w, w.registry, (value) => w.schedule(fresh.verifier(keys("c")), { number: 1n, value })];
  },
  "registry Schedule, a gateway": async () => {
    const w = await registry();
    return [w, w.registry, (value) => w.schedule(fresh.gateway(hash("g"), w.gateway.address, "g:1"), { number: 1n, value })];
  },
  "registry VetoScheduled": async () => {
    const w = await registry();
    const p = await w.schedule(fresh.manifest(hash("m2")));
    return [w, w.registry, (value) => w.vetoScheduled(1, hash("m2"), p.number, undefined, value)];
  },
  "registry VetoScheduled, a verifier": async () => {
    const w = await registry();
    const p = await w.schedule(fresh.verifier(keys("c")));
    return [w, w.registry, (value) => w.vetoScheduled(4, keyId(keys("c")), p.number, undefined, value)];
  },
  "registry WithdrawBond": async () => {
    const w = await registry();
    await w.send(w.anyone, w.registry, grantBody(w, two[0], toNano(1)), { value: toNano("1.1") });
    const body = (opcode) => w.body(opcode, (b) => b.storeUint(keyId(two[0]), 256));
    await w.send(w.payout, w.registry, body(op.unbond));
    w.chain.now += 7 * DAY;
    return [w, w.registry, (value) => w.send(w.payout, w.registry, body(op.withdrawBond), { value })];
  },
  "registry SlashVerifier": async () => {
    const w = await registry();
    await w.send(w.anyone, w.registry, grantBody(w, two[0], toNano(1)), { value: toNano("1.1") });
    return [w, w.registry, (value) => w.send(w.anyone, w.registry, slashBody(w, two[0], {}, { receiptKey: 1n }), { value })];
  },
};

describe("a message that brings too little changes nothing", () => {
  for (const [name, make] of Object.entries({ ...steps, ...orderSteps })) {
    test(name, async () => {
      const [w, at, send] = await make();
      if (await starve(w, at, send) !== null) return;
      assert.equal(exitCode(await send(toNano("1.2")), at), 0, "and with enough value it goes through");
    });
  }
});

/** The messages of a contract, from its source. */
const messagesOf = (contract) => {
  const source = readFileSync(new URL(`../tolk/${contract}.tolk`, import.meta.url), "utf8");
  const list = source.match(/^type \w+Message =\n((?:    \| \w+\n)+)/m);
  assert.ok(list, `${contract}.tolk names its messages`);
  return list[1].match(/\w+/g);
};

describe("every message of every contract", () => {
  // Those that contracts send one another are below, each by its own test.
  const between = ["job VerdictGood", "worker Slash", "registry StakePaid", "registry Fund"];
  const tried = new Set([...Object.keys(steps), ...Object.keys(orderSteps)].map((name) => name.split(",")[0]).concat(between));
  test("is sent with too little here", () => {
    const all = ["registry", "job", "worker"].flatMap((c) => messagesOf(c).map((m) => `${c} ${m}`));
    assert.ok(all.length >= 24, `${all.length} messages`);
    assert.deepEqual([...tried].sort(), all.sort());
  });
  for (const name of between) test(`${name} has a test of its own`, () => assert.ok(own.includes(name)));
});

const own = [];
/** A test of a message that starve() alone does not do. */
const about = (message, what, run) => {
  own.push(message);
  test(`${message}: ${what}`, run);
};

describe("messages between contracts that bring too little", () => {
  about("job VerdictGood", "the registry's word: the job stays as it was, and the money goes back", async () => {
    const w = await World.create();
    await w.deposit();
    assert.notEqual(await starve(w, w.job, (value) => w.good({ value })), null);
    assert.equal((await w.jobState()).verdictCount, 1);
  });

  test("the word of the most signatures, refused by the job, comes back from the least value", async () => {
    const verifiers = Array.from({ length: 16 }, (_, i) => keys("v" + i));
    const fee = toNano("0.16");
    const w = await World.create({ registry: { verifiers, threshold: 16, verifierFee: fee } });
    const now = w.chain.now;
    const v = verdictCell(w.common(), verifiers.map((kp) => ({ kp, issuedAt: now, expiresAt: now + 60 })));
    const res = await summed(w, () => w.release(v, { verifierFee: fee, value: toNano("0.1") + fee }));
    assert.equal(exitCode(res, w.registry), 0);
    assert.ok(txsOf(res, w.anyone.address).length === 1, "the sender got something back");
  });

  test("a word that comes back with too little to go on stays with the registry", async () => {
    const w = await World.create();
    const word = (await w.good({ value: 1n })).transactions[0].inMessage.body;
    const rich = beginCell().storeUint(0xfffffffe, 32).storeRef(word).storeRef(beginCell().storeCoins(1).storeBit(0).storeUint(0, 96).endCell())
      .storeUint(0, 8).storeInt(0, 32).storeBit(0).endCell();
    const bounced = (value) => w.chain.sendMessage(internal({ from: w.job, to: w.registry, value, body: rich, bounced: true, bounce: false }), { now: w.chain.now });
    const through = await starve(w, w.registry, bounced);
    assert.ok(through !== null && through <= 3_200_000n, `needs ${through}`);
  });

  about("worker Slash", "the stake stays, and no part of it is paid", async () => {
    const w = await releasedWithStake();
    const slash = (value) => w.send(w.job, w.worker, w.body(wop.slash, (b) => b.storeUint(3, 64).storeAddress(w.anyone.address).storeRef(w.jobInit.data.refs[0])),
      { value, bounce: false });
    const through = await starve(w, w.worker, slash);
    assert.ok(through === null || through >= 4_000_000n);
    await slash(toNano("0.04"));
    assert.equal((await w.workerState()).slashed, toNano(5));
  });

  test("the least value of an accusation pays for the slash and its payments", async () => {
    const w = await releasedWithStake();
    const res = await summed(w, () => w.send(w.anyone, w.job, w.body(op.accuse, (b) => b.storeUint(num(w.common(commonOver).hash()), 256).storeUint(3, 64)
      .storeRef(signedReceipt(w, 3, "a")).storeRef(signedReceipt(w, 3, "b"))), { value: toNano("0.05") }));
    assert.deepEqual([exitCode(res, w.job), exitCode(res, w.worker), exitCode(res, w.registry)], [0, 0, 0]);
    assert.ok(txsOf(res, w.anyone.address).length === 1);
  });

  about("registry StakePaid", "a slashed stake that cannot pay for its own entry stays uncounted", async () => {
    const w = await World.create();
    const pay = (value) => w.send(w.anyone, w.registry, w.body(op.stakePaid, (b) => b.storeCoins(toNano(1))), { value, bounce: false });
    const through = await starve(w, w.registry, pay);
    assert.ok(through !== null);
    assert.equal((await w.registryState()).slashed, through);
  });

  about("registry Fund", "nothing that it brings is lost, whether it pays for its own way or not", async () => {
    const w = await World.create();
    const data = (await w.data(w.registry)).hash().toString("hex");
    let before = await w.balance(w.registry);
    let through = 0;
    for (const value of values) {
      const res = await summed(w, () => w.send(w.anyone, w.registry, w.body(op.fund), { value, bounce: false }));
      const tx = txOf(res, w.registry);
      const now = await w.balance(w.registry);
      assert.equal(now, before + value - tx.totalFees.coins, `with ${value}`);
      assert.equal((await w.data(w.registry)).hash().toString("hex"), data);
      through += exitCode(res, w.registry) === 0 ? 1 : 0;
      before = now;
    }
    assert.ok(through > 0 && through < values.length, `${through} went through`);
  });
});
