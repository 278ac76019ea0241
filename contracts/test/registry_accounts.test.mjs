// Verifiers' fees and bonds.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { toNano } from "@ton/core";
import {
  code, DAY, entry, exitCode, HOUR, keyId, keys, num, op, txOf, txsOf, verdictCell, World,
} from "./world.mjs";
import { accusation, ask, ceilings, claimBody, grantBody, within } from "./registry_helpers.mjs";

after(() => ceilings.print());

const ok = (res, w) => assert.equal(exitCode(res, w.registry), 0);
const refused = (res, w, want) => assert.equal(exitCode(res, w.registry), code[want], want);
const two = ["a", "b"].map(keys);
const fee = toNano("0.01") + 1n;
const signed = (w, over = {}, signers = two) => verdictCell(w.common(over), signers.map((kp) =>
  ({ kp, issuedAt: w.chain.now - 5, expiresAt: w.chain.now + 600 })));

const claim = (w, kp, opts) => w.send(w.anyone, w.registry, claimBody(w, kp, opts));
const postBond = (w, kp, amount, { value = amount + toNano("0.05"), ...opts } = {}) =>
  w.send(w.anyone, w.registry, grantBody(w, kp, amount, opts), { value });
const unbond = (w, kp, from = w.payout) => w.send(from, w.registry, w.body(op.unbond, (b) => b.storeUint(keyId(kp), 256)));
const withdrawBond = (w, kp, from = w.payout) => w.send(from, w.registry, w.body(op.withdrawBond, (b) => b.storeUint(keyId(kp), 256)));
const slash = (w, kp, first, second) => w.send(w.anyone, w.registry, w.body(op.slash, (b) =>
  b.storeUint(num(kp.publicKey), 256).storeRef(first).storeRef(second)));

describe("verifiers' fees", () => {
  const world = () => World.create({ registry: { verifiers: two, threshold: 2, verifierFee: fee } });

  test("a good verdict pays its signers in equal parts; a refused one nothing", async () => {
    const w = await world();
    const before = await w.balance(w.registry);
    const got = await ask(w, signed(w), { verifierFee: fee });
    assert.equal(got.code, 0);
    within(txOf(got.res, w.registry), "checkVerdict, k = 2, with a fee");
    assert.equal(await w.balance(w.registry), before + fee, "the fee stays, to the nanoton");
    const st = await w.registryState();
    for (const kp of two) assert.equal(st.verifiers.get(keyId(kp)).earned, fee / 2n);
    assert.equal(st.owed, fee / 2n * 2n);
    assert.equal(st.version, 1, "money is no change of the registry");
    assert.equal((await ask(w, signed(w), { verifierFee: fee - 1n })).code, code.VERIFIER_FEE_LOW);
    assert.equal((await ask(w, signed(w, { manifest: 5n }), { verifierFee: fee })).code, code.MANIFEST_UNKNOWN);
    assert.equal(await w.balance(w.registry), before + fee);
  });

  test("a verdict that does not bring the fee and its gas comes back", async () => {
    const w = await world();
    for (const value of [toNano("0.012"), toNano("0.05") + fee - 1n]) {
      const res = await w.release(signed(w), { verifierFee: fee, value });
      refused(res, w, "VALUE_TOO_LOW");
      assert.ok(txsOf(res, w.anyone.address).some((t) => t.inMessage.info.bounced));
    }
    assert.equal((await w.registryState()).owed, 0n);
    assert.equal((await ask(w, signed(w), { verifierFee: fee, value: toNano("0.05") + fee })).code, 0);
  });

  test("a verifier's key takes its share out, to the address that it signed", async () => {
    const w = await world();
    await ask(w, signed(w), { verifierFee: fee });
    for (const [want, opts] of [
      ["CLAIM_INVALID", { signer: two[1] }], ["CLAIM_INVALID", { until: w.chain.now }], ["CLAIM_INVALID", { until: w.chain.now + HOUR + 1 }],
      ["ORDER_WRONG_TARGET", { globalId: -3 }],
    ]) refused(await claim(w, two[0], opts), w, want);
    refused(await claim(w, keys("stranger")), w, "VERIFIER_NOT_LISTED");
    const before = await w.balance(w.registry);
    const res = await claim(w, two[0]);
    ok(res, w);
    within(txOf(res, w.registry), "claim");
    assert.equal(txsOf(res, w.owner.address)[0].inMessage.info.value.coins, fee / 2n);
    assert.equal(await w.balance(w.registry), before - fee / 2n);
    assert.equal((await w.registryState()).owed, fee / 2n);
    refused(await claim(w, two[0]), w, "NOTHING_TO_PAY");
  });

  test("a removed verifier's share waits for it, and nobody else may take it", async () => {
    const w = await world();
    await ask(w, signed(w), { verifierFee: fee });
    ok(await w.apply([entry.threshold(1), entry.verifier(two[0], { listed: false })]), w);
    const left = (await w.registryState()).verifiers.get(keyId(two[0]));
    assert.deepEqual([left.listed, left.validUntil, left.earned], [false, 0, fee / 2n]);
    assert.equal((await ask(w, signed(w), { verifierFee: fee })).code, code.VERDICT_EXPIRED, "its signature does not count");
    refused(await w.apply([entry.withdraw(w.owner.address, await w.balance(w.registry) - toNano("0.0505"))]), w, "WITHDRAW_TOO_MUCH");
    ok(await claim(w, two[0]), w);
    assert.ok(!(await w.registryState()).verifiers.has(keyId(two[0])));
  });
});

describe("bonds", () => {
  const bond = toNano(5);
  const world = () => World.create({ registry: { verifiers: two, threshold: 1, minBond: bond } });

  test("a key is not listed without its bond, and is off the list when the bond goes", async () => {
    const w = await world();
    const c = keys("c");
    refused(await w.apply([entry.verifier(c)]), w, "VERIFIER_BOND_LOW");
    refused(await postBond(w, c, bond, { signer: two[0] }), w, "CLAIM_INVALID");
    refused(await postBond(w, c, toNano("0.9")), w, "VALUE_TOO_LOW");
    const before = await w.balance(w.registry);
    const posted = await postBond(w, c, bond - toNano(1));
    ok(posted, w);
    within(txOf(posted, w.registry), "postBond");
    assert.equal(await w.balance(w.registry), before + bond - toNano(1));
    refused(await w.apply([entry.verifier(c)]), w, "VERIFIER_BOND_LOW");
    refused(await postBond(w, c, toNano(1), { owner: w.anyone.address }), w, "NOT_BOND_OWNER");
    ok(await postBond(w, c, toNano(1)), w);
    ok(await w.apply([entry.verifier(c)]), w);
    assert.equal((await ask(w, signed(w, {}, [c]))).code, 0);

    refused(await unbond(w, c, w.anyone), w, "NOT_BOND_OWNER");
    refused(await withdrawBond(w, c), w, "NOTHING_TO_PAY");
    const left = await unbond(w, c);
    ok(left, w);
    within(txOf(left, w.registry), "unbond");
    assert.equal((await ask(w, signed(w, {}, [c]))).code, code.VERIFIER_UNKNOWN);
    assert.equal((await w.registryState()).verifierCount, 2);
    w.chain.now += 7 * DAY - 1;
    refused(await withdrawBond(w, c), w, "BOND_LOCKED");
    w.chain.now += 1;
    refused(await withdrawBond(w, c, w.anyone), w, "NOT_BOND_OWNER");
    const paid = await withdrawBond(w, c);
    ok(paid, w);
    within(txOf(paid, w.registry), "withdrawBond");
    assert.equal(txsOf(paid, w.payout.address)[0].inMessage.info.value.coins, bond);
    const st = await w.registryState();
    assert.deepEqual([st.owed, st.bonds.size], [0n, 0]);
  });

  test("a bond whose value does not come along is not posted", async () => {
    const w = await world();
    const res = await postBond(w, keys("c"), bond, { value: bond });
    assert.ok(txsOf(res, w.anyone.address).some((t) => t.inMessage.info.bounced));
    assert.equal((await w.registryState()).owed, 0n);
  });

  const contradictions = {
    "receipt key": { receiptKey: 1n }, "manifest": { manifest: 2n }, "model": { modelRoot: 3n }, "trust class": { trustClass: 2 },
    "payout": (w) => ({ payout: w.owner.address }),
  };
  test("two verdicts for one evidence that differ cost the bond, listed or on its way out", async () => {
    for (const [what, over] of Object.entries(contradictions)) {
      const w = await world();
      ok(await postBond(w, two[0], bond), w);
      if (what === "manifest") ok(await unbond(w, two[0]), w);
      const before = await w.balance(w.registry);
      const proof = typeof over === "function" ? over(w) : over;
      const res = await slash(w, two[0], accusation(w, two[0], {}), accusation(w, two[0], proof));
      assert.equal(exitCode(res, w.registry), 0, what);
      within(txOf(res, w.registry), "slash");
      assert.equal(txsOf(res, w.anyone.address)[0].inMessage.info.value.coins, bond / 4n, "the reporter's part");
      assert.equal(await w.balance(w.registry), before - bond / 4n);
      const st = await w.registryState();
      assert.deepEqual([st.owed, st.bonds.size, st.verifierCount, st.verifiers.has(keyId(two[0]))], [0n, 0, 1, false]);
      refused(await slash(w, two[0], accusation(w, two[0], {}), accusation(w, two[0], proof)), w, "NOTHING_TO_PAY");
    }
  });

  test("no proof, no slash", async () => {
    const w = await world();
    ok(await postBond(w, two[0], bond), w);
    const a = accusation(w, two[0], {});
    for (const [what, want, second] of [
      ["the same verdict", "NO_CONTRADICTION", a],
      ["another policy", "NO_CONTRADICTION", accusation(w, two[0], { policyHash: 9n })],
      ["other evidence", "NO_CONTRADICTION", accusation(w, two[0], { evidence: 9n, receiptKey: 1n })],
      ["another network", "VERDICT_GLOBAL_ID", accusation(w, two[0], { globalId: -3, receiptKey: 1n })],
      ["another registry", "VERDICT_REGISTRY", accusation(w, two[0], { registry: w.job, receiptKey: 1n })],
      ["somebody else's signature", "SIGNATURE_INVALID", accusation(w, two[0], { receiptKey: 1n }, { signer: two[1] })],
    ]) {
      const res = await slash(w, two[0], a, second);
      assert.equal(exitCode(res, w.registry), code[want], what);
    }
    assert.equal((await w.registryState()).owed, bond);
  });
});

describe("workers' slashed stakes", () => {
  test("are counted and stay; a counted sum is never more than what came", async () => {
    const w = await World.create();
    const before = await w.balance(w.registry);
    const pay = (amount, value) => w.send(w.anyone, w.registry, w.body(op.stakePaid, (b) => b.storeCoins(amount)), { value, bounce: false });
    const res = await pay(toNano(2), toNano(2));
    ok(res, w);
    within(txOf(res, w.registry), "stakePaid");
    assert.equal((await w.registryState()).slashed, toNano(2));
    assert.ok(await w.balance(w.registry) > before + toNano("1.99"));
    ok(await pay(toNano(1000), toNano(1)), w);
    const st = await w.registryState();
    assert.deepEqual([st.slashed, st.owed, st.version], [toNano(3), 0n, 1]);
    const { stack } = await w.chain.runGetMethod(w.registry, "slashed_stakes");
    assert.equal(stack[0].value, toNano(3));
    ok(await w.apply([entry.withdraw(w.owner.address, toNano("2.5"))]), w);
  });
});
