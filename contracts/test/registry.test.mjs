// Owners' orders and verdicts, with gas ceilings, and each refusal. What is
// scheduled is in registry_schedule.test.mjs, money in registry_accounts.test.mjs.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { beginCell, Cell, toNano } from "@ton/core";
import {
  code, DAY, entry, exitCode, hash, HOUR, keyId, keys, manifestState, num, op, ownerSignatures,
  OWNERS, trust, txOf, txsOf, verdictCell, World,
} from "./world.mjs";
import { ask, ceilings, spent, within } from "./registry_helpers.mjs";
import { compile } from "../scripts/compile.mjs";

const ok = (res, w) => assert.equal(exitCode(res, w.registry), 0);
const refused = (res, w, want) => assert.equal(exitCode(res, w.registry), code[want], want);

after(() => ceilings.print());

describe("orders", () => {
  test("a new entry waits the time lock; then anyone executes it, once", async () => {
    const w = await World.create();
    const { version } = await w.registryState();
    const before = await w.balance(w.registry);
    const p = await w.propose([entry.manifest(hash("m2"))]);
    ok(p, w);
    within(txOf(p, w.registry), "propose");
    let st = await w.registryState();
    assert.equal(st.version, version);
    assert.equal(st.pendingCount, 1);
    assert.ok(!st.manifests.has(hash("m2")));
    w.chain.now += 2 * DAY - 1;
    refused(await w.execute(p.number), w, "ORDER_TOO_EARLY");
    w.chain.now += 1;
    const done = await w.execute(p.number);
    ok(done, w);
    within(txOf(done, w.registry), "execute");
    st = await w.registryState();
    assert.equal(st.version, version + 1);
    assert.equal(st.pendingCount, 0);
    assert.ok(st.manifests.has(hash("m2")));
    refused(await w.execute(p.number), w, "ORDER_NOT_PENDING");
    assert.ok(before - await w.balance(w.registry) < toNano("0.002"), "only two days of storage were paid by the registry");
    assert.ok(txsOf(done, w.anyone.address).at(-1).inMessage.info.value.coins > toNano("0.09"), "the rest came back");
  });

  test("every entry works, in one order", async () => {
    const w = await World.create();
    const res = await w.apply([
      entry.manifest(hash("m2")), entry.model(hash("model 2")), entry.policy(hash("policy 2")), entry.verifier(keys("second")),
      entry.threshold(2), entry.gateway(hash("g"), w.gateway.address, "gw.example.org:443"), entry.checkpoint(hash("log"), 10, 99n),
      entry.parameters({ trustClasses: 6, feeCapBps: 2000, verifierFee: 7n }),
    ]);
    ok(res, w);
    const st = await w.registryState();
    assert.ok(st.manifests.has(hash("m2")) && st.models.has(hash("model 2")) && st.policies.has(hash("policy 2")));
    assert.ok(st.verifiers.get(keyId(keys("second"))).listed);
    assert.deepEqual([st.threshold, st.verifierCount, st.trustClasses, st.feeCapBps, st.verifierFee], [2, 2, 6, 2000, 7n]);
    assert.ok(st.gateways.has(hash("g")) && st.checkpoints.has(hash("log")));
    ok(await w.now([entry.gateway(hash("g")), entry.policy(hash("policy 2"), false), entry.checkpoint(hash("log"), 11, 98n)]), w);
    const gone = await w.registryState();
    assert.ok(!gone.gateways.has(hash("g")) && !gone.policies.has(hash("policy 2")));
  });

  const widens = {
    "a new manifest": () => entry.manifest(hash("m2")),
    "an unknown manifest in grace": (w) => entry.manifest(hash("m2"), manifestState.grace, w.chain.now + 9),
    "a new model": () => entry.model(hash("model 2")),
    "a policy": () => entry.policy(hash("policy 2")),
    "a verifier": () => entry.verifier(keys("second")),
    "a lower k": () => entry.threshold(1),
    "to resume": () => entry.paused(false),
    "a gateway": (w) => entry.gateway(hash("g"), w.gateway.address, "g:1"),
    "a new log": () => entry.checkpoint(hash("log"), 1, 1n),
    "to forget a log": () => entry.checkpoint(hash("log"), 0, 0n),
    "a trust class": () => entry.parameters({ trustClasses: 14 }),
    "longer verdicts": () => entry.parameters({ freshness: HOUR }),
    "a higher gateway fee": () => entry.parameters({ freshness: 600, feeCapBps: 1001 }),
    "a higher verifiers' fee": () => entry.parameters({ freshness: 600, verifierFee: 1n }),
    "a lower bond": () => entry.parameters({ freshness: 600, minBond: 1n }),
    "a shorter closing delay": () => entry.parameters({ freshness: 600, minBond: 5n, minCloseDelay: 599 }),
    "a lower stake": () => entry.parameters({ freshness: 600, minBond: 5n, minWorkerStake: 1n }),
    "a shorter way out for bonds": () => entry.parameters({ freshness: 600, minBond: 5n, minWorkerStake: 2n, unbondDelay: DAY }),
    "other owners": () => entry.owners({ owners: OWNERS }),
    "other code": () => entry.upgrade(beginCell().endCell()),
    "a withdrawal": (w) => entry.withdraw(w.owner.address, 1n),
  };
  test("nothing that widens trust acts at once", async () => {
    const w = await World.create({ registry: {
      verifiers: ["verifier", "b"].map(keys), threshold: 2, freshness: 600, minBond: 5n, minWorkerStake: 2n,
    } });
    const before = await w.data(w.registry);
    for (const [what, make] of Object.entries(widens)) {
      const res = await w.now([entry.paused(true), make(w)]);
      assert.equal(exitCode(res, w.registry), code.ORDER_MUST_WAIT, what);
    }
    assert.ok(before.equals(await w.data(w.registry)), "an order acts whole or not at all");
  });

  test("what narrows trust acts at once, and counts at once", async () => {
    const w = await World.create({ registry: { verifiers: ["verifier", "b", "c"].map(keys) } });
    const until = w.chain.now + 100;
    for (const [what, e] of [
      ["grace", entry.manifest(w.manifest, manifestState.grace, until)],
      ["a shorter grace", entry.manifest(w.manifest, manifestState.grace, until - 50)],
      ["revocation", entry.manifest(w.manifest, manifestState.revoked)],
      ["revocation ahead", entry.manifest(hash("never seen"), manifestState.revoked)],
      ["a retired model", entry.model(w.modelRoot, false)],
      ["a dropped policy", entry.policy(w.policyHash, false)],
      ["an earlier end of a key", entry.verifier(keys("verifier"), { until })],
      ["a removed verifier", entry.verifier(keys("verifier"), { listed: false })],
      ["a higher k", entry.threshold(2)],
      ["tighter parameters", entry.parameters({ trustClasses: 2, freshness: 600, feeCapBps: 5, minBond: 9n, minCloseDelay: 900, minWorkerStake: 4n, unbondDelay: 8 * DAY })],
      ["a pause", entry.paused(true)],
    ]) {
      const res = await w.now([e]);
      assert.equal(exitCode(res, w.registry), 0, what);
      within(txOf(res, w.registry), "act at once");
    }
    const st = await w.registryState();
    assert.deepEqual([st.paused, st.threshold, st.verifierCount, st.trustClasses, st.minBond], [true, 2, 2, 2, 9n]);
    assert.ok(!st.verifiers.has(keyId(keys("verifier"))));
    refused(await w.now([entry.manifest(w.manifest, manifestState.grace, until)]), w, "MANIFEST_REVOKED_FINAL");
    const late = await w.apply([entry.manifest(w.manifest)]);
    refused(late, w, "MANIFEST_REVOKED_FINAL");
    refused(await w.now([entry.manifest(hash("m3"), manifestState.grace, until)]), w, "ORDER_MUST_WAIT");
    ok(await w.apply([entry.paused(false)]), w);
  });

  test("one owner vetoes; a veto is for its order only", async () => {
    const w = await World.create();
    const a = await w.propose([entry.manifest(hash("a"))]);
    const b = await w.propose([entry.manifest(hash("b"))]);
    refused(await w.veto(b.order, a.number), w, "OWNER_SIGNATURE");
    refused(await w.veto(a.order, a.number, [[2, keys("stranger")]]), w, "OWNER_SIGNATURE");
    refused(await w.veto(a.order, a.number, [[7, OWNERS[2]]]), w, "OWNER_UNKNOWN");
    const v = await w.veto(a.order, a.number);
    ok(v, w);
    within(txOf(v, w.registry), "veto");
    w.chain.now += 2 * DAY;
    refused(await w.execute(a.number), w, "ORDER_NOT_PENDING");
    refused(await w.veto(a.order, a.number), w, "ORDER_NOT_PENDING");
    ok(await w.execute(b.number), w);
  });

  test("an order of enough owners cannot be vetoed by fewer", async () => {
    const five = ["a", "b", "c", "d", "e"].map((n) => keys("owner " + n));
    const w = await World.create({ registry: { owners: five, ownerThreshold: 3, finalThreshold: 4 } });
    const by = (n) => five.slice(0, n).map((kp, i) => [i, kp]);
    const few = await w.propose([entry.paused(false)], { signers: by(3) });
    const many = await w.propose([entry.owners({ owners: five.slice(0, 4), threshold: 3, final: 0 })], { signers: by(4) });
    ok(await w.veto(few.order, few.number, [[4, five[4]]]), w);
    refused(await w.veto(many.order, many.number, [[4, five[4]]]), w, "ORDER_FINAL");
    w.chain.now += 2 * DAY;
    ok(await w.execute(many.number), w);
    assert.equal((await w.registryState()).owners.size, 4);
  });

  test("forged, replayed, misdirected, expired and thin orders are refused", async () => {
    const w = await World.create();
    const e = [entry.manifest(hash("m2"))];
    const before = await w.data(w.registry);
    const [one, two, three] = OWNERS.map((kp, i) => [i, kp]);
    for (const [what, want, opts] of [
      ["one signature", "OWNERS_TOO_FEW", { signers: [one] }],
      ["the same owner twice", "OWNER_LIST_INVALID", { signers: [one, one] }],
      ["a list out of order", "OWNER_LIST_INVALID", { signers: [two, one] }],
      ["a stranger", "OWNER_SIGNATURE", { signers: [one, [1, keys("stranger")]] }],
      ["an index that nobody has", "OWNER_UNKNOWN", { signers: [one, two, [3, keys("stranger")]] }],
      ["another network", "ORDER_WRONG_TARGET", { globalId: -3 }],
      ["another registry", "ORDER_WRONG_TARGET", { registry: w.job }],
      ["its last second", "ORDER_EXPIRED", { validUntil: w.chain.now }],
      ["a number that is used up", "ORDER_NUMBER", { number: 0n }],
      ["a number far ahead", "ORDER_NUMBER", { number: 1025n }],
    ]) {
      const res = await w.propose(e, opts);
      assert.equal(exitCode(res, w.registry), code[want], what);
      within(txOf(res, w.registry), "refused order");
    }
    assert.ok(before.equals(await w.data(w.registry)));
    const good = await w.propose(e, { number: 5n, signers: [one, two, three] });
    ok(good, w);
    refused(await w.propose(e, { order: good.order, number: 5n }), w, "ORDER_NUMBER");
    refused(await w.propose(e, { number: 4n }), w, "ORDER_NUMBER");
    const changed = w.order([entry.manifest(hash("other"))], { number: 6n });
    refused(await w.propose(e, { order: changed, signatures: ownerSignatures(good.order.hash(), [one, two]) }), w, "OWNER_SIGNATURE");
  });

  test("malformed orders change nothing", async () => {
    const w = await World.create();
    for (const [fill, want] of [
      [(b) => b.storeUint(77, 8), code.ENTRY_UNKNOWN],
      [(b) => b.storeUint(1, 8).storeUint(1, 9), 9],
      [(b) => entry.manifest(hash("x"), manifestState.revoked)(b).storeUint(0, 1), 9],
      [entry.manifest(hash("x"), 0), code.MANIFEST_STATE_INVALID],
      [entry.manifest(hash("x"), 4), code.MANIFEST_STATE_INVALID],
      [entry.manifest(hash("x"), manifestState.grace), code.MANIFEST_STATE_INVALID],
      [entry.manifest(hash("x"), manifestState.active, 5), code.MANIFEST_STATE_INVALID],
    ]) {
      assert.equal(exitCode(await w.now([fill]), w.registry), want);
    }
    const many = Array.from({ length: 129 }, (_, i) => entry.policy(BigInt(i), false));
    refused(await w.propose(many, { later: false, value: toNano(1) }), w, "ENTRIES_TOO_MANY");
    ok(await w.propose(many.slice(1), { later: false, value: toNano(1) }), w);
    for (const [body, want] of [
      [w.body(0x12345678), code.UNKNOWN_OPCODE], [beginCell().endCell(), code.UNKNOWN_OPCODE],
      [beginCell().storeUint(op.execute, 32).endCell(), 9], [w.body(op.propose), 9],
    ]) {
      assert.equal(exitCode(await w.send(w.anyone, w.registry, body), w.registry), want);
    }
  });

  test("pending orders are bounded, expire, and never shut the owners out", async () => {
    const w = await World.create();
    for (let i = 0; i < 16; i++) ok(await w.propose([entry.manifest(BigInt(i))]), w);
    refused(await w.propose([entry.manifest(99n)]), w, "ORDERS_FULL");
    ok(await w.now([entry.paused(true)]), w);
    w.chain.now += 2 * DAY + 14 * DAY;
    const res = await w.propose([entry.manifest(99n)]);
    ok(res, w);
    within(txOf(res, w.registry), "propose, sixteen dropped");
    assert.equal((await w.registryState()).pendingCount, 1);
    w.chain.now += 16 * DAY;
    ok(await w.execute(res.number), w); // too late: dropped
    const st = await w.registryState();
    assert.equal(st.pendingCount, 0);
    assert.ok(!st.manifests.has(99n));
  });

  test("new owners act; the old ones and their pending orders are gone", async () => {
    const w = await World.create();
    const next = ["x", "y"].map((n) => keys("new owner " + n));
    const stale = await w.propose([entry.manifest(hash("stale"))]);
    for (const bad of [
      { owners: next, threshold: 3 }, { owners: next, threshold: 0 }, { owners: [], threshold: 1 }, { owners: next, veto: 0 },
      { owners: next, threshold: 1, veto: 2 }, { owners: next, final: 2 }, { owners: next, delay: 30 * DAY + 1 },
      { owners: Array.from({ length: 17 }, (_, i) => keys("o" + i)) },
    ]) {
      refused(await w.apply([entry.owners(bad)]), w, "OWNERS_INVALID");
    }
    ok(await w.apply([entry.owners({ owners: next, delay: 600 })]), w);
    refused(await w.execute(stale.number), w, "ORDER_NOT_PENDING");
    refused(await w.propose([entry.paused(true)], { later: false }), w, "OWNER_SIGNATURE");
    ok(await w.now([entry.paused(true)], { signers: next.map((kp, i) => [i, kp]) }), w);
  });

  test("k stays within the listed verifiers; no 65th", async () => {
    const w = await World.create({ registry: { verifiers: ["a", "b"].map(keys), threshold: 2 } });
    refused(await w.now([entry.threshold(3)]), w, "THRESHOLD_INVALID");
    refused(await w.apply([entry.threshold(0)]), w, "THRESHOLD_INVALID");
    refused(await w.now([entry.verifier(keys("a"), { listed: false })]), w, "THRESHOLD_INVALID");
    ok(await w.now([entry.verifier(keys("a"), { until: w.chain.now })]), w); // a stolen key of the last two
    ok(await w.apply([entry.threshold(1), entry.verifier(keys("a"), { listed: false })]), w);
    refused(await w.apply([entry.verifier(keys("c"), { from: 5, until: 5 })]), w, "VERIFIER_INTERVAL");
    const many = Array.from({ length: 64 }, (_, i) => keys("v" + i));
    const full = await World.create({ registry: { verifiers: many } });
    refused(await full.apply([entry.verifier(keys("one more"))]), full, "VERIFIERS_FULL");
    ok(await full.apply([entry.verifier(many[3])]), full);
    assert.equal((await full.registryState()).verifierCount, 64);
  });

  test("parameters beyond their limits are refused, and vtpm stays a devnet's", async () => {
    const w = await World.create({ registry: { devnet: false, trustClasses: 1 << trust.tdx } });
    for (const [p, want] of [
      [{ trustClasses: 4, feeCapBps: 10001 }, "PARAMETERS_INVALID"], [{ trustClasses: 4, freshness: HOUR + 1 }, "PARAMETERS_INVALID"],
      [{ trustClasses: 4, freshness: 0 }, "PARAMETERS_INVALID"], [{ trustClasses: 4, verifierFee: toNano("1.1") }, "PARAMETERS_INVALID"],
      [{ trustClasses: 4, unbondDelay: 7199 }, "PARAMETERS_INVALID"], [{ trustClasses: 4, unbondDelay: 61 * DAY }, "PARAMETERS_INVALID"],
      [{ trustClasses: 6 }, "TRUST_CLASS_DEVNET_ONLY"],
    ]) {
      refused(await w.apply([entry.parameters(p)]), w, want);
    }
    ok(await w.apply([entry.parameters({ trustClasses: 12 })]), w);
  });

  test("a log's checkpoint only grows", async () => {
    const w = await World.create();
    ok(await w.apply([entry.checkpoint(hash("log"), 10, 1n)]), w);
    ok(await w.now([entry.checkpoint(hash("log"), 12, 2n)]), w);
    for (const size of [12, 11, 1]) refused(await w.now([entry.checkpoint(hash("log"), size, 3n)]), w, "CHECKPOINT_NOT_HIGHER");
    refused(await w.apply([entry.checkpoint(hash("log"), 5, 3n)]), w, "CHECKPOINT_NOT_HIGHER");
    ok(await w.apply([entry.checkpoint(hash("log"), 0, 0n)]), w);
    assert.equal((await w.registryState()).checkpoints.size, 0);
  });

  test("a withdrawal is exact and leaves the storage reserve", async () => {
    const w = await World.create();
    const have = await w.balance(w.registry);
    const ownerBefore = await w.balance(w.owner);
    const amount = toNano("0.1");
    ok(await w.apply([entry.withdraw(w.owner.address, amount)]), w);
    assert.ok(have - amount - await w.balance(w.registry) < toNano("0.002"), "two days of storage apart");
    assert.ok(await w.balance(w.owner) > ownerBefore + amount - toNano("0.001"));
    refused(await w.apply([entry.withdraw(w.owner.address, have - amount - toNano("0.05"))]), w, "WITHDRAW_TOO_MUCH");
    refused(await w.apply([entry.withdraw(w.owner.address, 1n), entry.withdraw(w.owner.address, 1n)]), w, "WITHDRAW_TOO_MUCH");
  });

  test("new code takes the data over; code that does not is refused whole", async () => {
    const w = await World.create();
    const next = Cell.fromBase64((await compile("next", "test/tolk")).codeBoc64);
    refused(await w.apply([entry.upgrade(next), entry.paused(true)]), w, "UPGRADE_NOT_ALONE");
    const mute = await w.apply([entry.upgrade(Cell.fromBase64((await compile("job")).codeBoc64))]);
    assert.equal(exitCode(mute, w.registry), 11, "no migration in it");
    ok(await w.propose([entry.manifest(hash("m2"))]), w);
    ok(await w.apply([entry.upgrade(next)]), w);
    const contract = await w.chain.getContract(w.registry);
    assert.ok(contract.account.account.storage.state.state.code.equals(next));
    const s = (await w.data(w.registry)).beginParse();
    assert.equal(s.loadUint(16), 6);
    assert.equal(s.loadUint(32), 2, "the version goes on");
    const marked = await w.send(w.anyone, w.registry, w.body(0x43520099));
    ok(marked, w);
    assert.equal((await w.data(w.registry)).beginParse().skip(48).loadUint(64), 1, "the new code runs on the new layout");
    const { stack } = await w.chain.runGetMethod(w.registry, "manifest_state", [{ type: "int", value: w.manifest }]);
    assert.equal(stack[0].value, 1n, "manifests were kept");
  });
});

describe("a verdict", () => {
  test("that is good is told with its hash, key, binding and end, and the money that is left", async () => {
    const w = await World.create();
    const before = await w.balance(w.registry);
    const got = await ask(w, w.verdict());
    assert.equal(got.code, 0);
    assert.deepEqual([got.verdictHash, got.receiptKey], [num(w.common().hash()), hash("receipt key")]);
    assert.deepEqual([got.renewalsOnly, got.feeCap], [false, 1000]);
    assert.ok(got.binding.equals(w.common().refs[0]));
    assert.equal(got.validUntil, w.chain.now + 1800);
    within(txOf(got.res, w.registry), "checkVerdict, k = 1");
    assert.equal(await w.balance(w.registry), before);
  });

  const now = (w) => w.chain.now;
  const refusals = [
    ["another format version", "VERDICT_VERSION", (w) => w.verdict({ version: 1 })],
    ["another chain", "VERDICT_GLOBAL_ID", (w) => w.verdict({ globalId: -3 })],
    ["another registry", "VERDICT_REGISTRY", (w) => w.verdict({ registry: w.job })],
    ["a trust class that is not accepted", "TRUST_CLASS_REFUSED", (w) => w.verdict({ trustClass: 3 })],
    ["a trust class out of range", "TRUST_CLASS_REFUSED", (w) => w.verdict({ trustClass: 255 })],
    ["an unregistered manifest", "MANIFEST_UNKNOWN", (w) => w.verdict({ manifest: hash("other") })],
    ["an unregistered model", "MODEL_UNKNOWN", (w) => w.verdict({ modelRoot: hash("other") })],
    ["a policy that is not accepted", "POLICY_NOT_ACCEPTED", (w) => w.verdict({ policyHash: hash("other") })],
    ["a key that is not a verifier's", "VERIFIER_UNKNOWN", (w) => w.verdict({}, { kp: keys("stranger") })],
    ["a stranger's signature under a verifier's key id", "SIGNATURE_INVALID", (w) => w.verdict({}, { kp: keys("stranger"), id: keyId(w.verifier) })],
    ["a flipped signature bit", "SIGNATURE_INVALID", (w) => w.verdict({}, { forge: true })],
    ["one issued in the future", "VERDICT_NOT_YET_VALID", (w) => w.verdict({}, { issuedAt: now(w) + 1 })],
    ["one that expires now", "VERDICT_EXPIRED", (w) => w.verdict({}, { expiresAt: now(w) })],
    ["one that is over", "VERDICT_EXPIRED", (w) => w.verdict({}, { issuedAt: now(w) - 100, expiresAt: now(w) - 1 })],
    ["one valid for longer than an hour", "VERDICT_INTERVAL", (w) => w.verdict({}, { issuedAt: now(w) - 1, expiresAt: now(w) + HOUR })],
  ];
  test("that is bad is refused with its reason", async () => {
    const w = await World.create();
    const before = await w.data(w.registry);
    for (const [what, want, make] of refusals) {
      assert.equal((await ask(w, make(w))).code, code[want], what);
    }
    assert.ok(before.equals(await w.data(w.registry)));
  });

  test("a signature over other content is not good for this one", async () => {
    const w = await World.create();
    const good = w.verdict();
    const moved = beginCell().storeRef(w.common({ receiptKey: hash("thief") })).storeRef(good.refs[1]).endCell();
    assert.equal((await ask(w, moved)).code, code.SIGNATURE_INVALID);
  });

  test("the boundary of freshness: one hour exactly, issued now, is good", async () => {
    const w = await World.create();
    assert.equal((await ask(w, w.verdict({}, { issuedAt: w.chain.now, expiresAt: w.chain.now + HOUR }))).code, 0);
  });

  test("a paused registry says so", async () => {
    const w = await World.create({ registry: { delay: 60 } });
    await w.now([entry.paused(true)]);
    assert.equal((await ask(w, w.verdict())).code, code.REGISTRY_PAUSED);
    await w.apply([entry.paused(false)]);
    assert.equal((await ask(w, w.verdict())).code, 0);
  });

  test("grace is for renewals and ends at its second; revocation and retirement act at once", async () => {
    const w = await World.create({ registry: { delay: 10 } });
    await w.now([entry.manifest(w.manifest, manifestState.grace, w.chain.now + 100)]);
    assert.equal((await ask(w, w.verdict())).renewalsOnly, true);
    w.chain.now += 99;
    assert.equal((await ask(w, w.verdict())).renewalsOnly, true);
    w.chain.now += 1;
    assert.equal((await ask(w, w.verdict())).code, code.MANIFEST_GRACE_OVER);
    await w.apply([entry.manifest(w.manifest, manifestState.active)]);
    assert.equal((await ask(w, w.verdict())).renewalsOnly, false);
    await w.now([entry.model(w.modelRoot, false)]);
    assert.equal((await ask(w, w.verdict())).code, code.MODEL_RETIRED);
    await w.now([entry.manifest(w.manifest, manifestState.revoked)]);
    assert.equal((await ask(w, w.verdict())).code, code.MANIFEST_REVOKED);
  });

  test("a verifier's key counts within its interval, and not once it is removed", async () => {
    const w = await World.create();
    const v = { kp: keys("verifier"), validFrom: w.chain.now, validUntil: w.chain.now + 100 };
    const timed = await World.create({ registry: { verifiers: [v, keys("b")] } });
    assert.equal((await ask(timed, timed.verdict())).validUntil, v.validUntil, "the verdict ends with the key");
    timed.chain.now += 100;
    assert.equal((await ask(timed, timed.verdict())).code, code.VERDICT_EXPIRED);
    const early = await World.create({ registry: { verifiers: [{ ...v, validFrom: w.chain.now + 1 }] } });
    assert.equal((await ask(early, early.verdict())).code, code.VERDICT_NOT_YET_VALID);
    const gone = await World.create({ registry: { verifiers: ["verifier", "b"].map(keys) } });
    await gone.now([entry.verifier(keys("verifier"), { listed: false })]);
    assert.equal((await ask(gone, gone.verdict())).code, code.VERIFIER_UNKNOWN);
  });

  test("a malformed verdict is refused with the machine's own code", async () => {
    const w = await World.create();
    const short = beginCell().storeUint(0x43564331, 32).storeUint(2, 16).endCell();
    const got = await ask(w, verdictCell(short, [{ kp: w.verifier, issuedAt: w.chain.now, expiresAt: w.chain.now + 9 }]));
    assert.equal(got.code, 9);
    const cut = beginCell().storeRef(w.common()).storeRef(beginCell().endCell()).endCell();
    assert.equal((await ask(w, cut)).code, 9);
  });
});

describe("k of n", () => {
  const three = ["a", "b", "c"].map(keys);
  const world = (threshold) => World.create({ registry: { verifiers: three, threshold } });
  const signed = (w, list, opts) => verdictCell(w.common(), list.map((s) =>
    ({ issuedAt: w.chain.now - 5, expiresAt: w.chain.now + 600, ...s })), opts);

  test("two of three pass a threshold of two, one does not; the end is the earliest", async () => {
    const w = await world(2);
    const got = await ask(w, signed(w, [{ kp: three[0] }, { kp: three[2], expiresAt: w.chain.now + 300 }]));
    assert.equal(got.code, 0);
    assert.equal(got.validUntil, w.chain.now + 300);
    within(txOf(got.res, w.registry), "checkVerdict, k = 2");
    assert.equal((await ask(w, signed(w, [{ kp: three[0] }]))).code, code.SIGNATURES_TOO_FEW);
  });

  test("the same key twice, or a list out of order, is refused", async () => {
    const w = await world(2);
    assert.equal((await ask(w, signed(w, [{ kp: three[0] }, { kp: three[0] }]))).code, code.SIGNATURE_LIST_INVALID);
    const sorted = [...three].sort((x, y) => (keyId(x) < keyId(y) ? -1 : 1));
    assert.equal((await ask(w, signed(w, [{ kp: sorted[1] }, { kp: sorted[0] }], { raw: true }))).code, code.SIGNATURE_LIST_INVALID);
  });

  test("one expired signature spoils the intersection", async () => {
    const w = await world(2);
    const v = signed(w, [{ kp: three[0] }, { kp: three[1] }, { kp: three[2], expiresAt: w.chain.now }]);
    assert.equal((await ask(w, v)).code, code.VERDICT_EXPIRED);
  });

  test("all of sixteen verifiers may be asked for", async () => {
    const many = Array.from({ length: 16 }, (_, i) => keys("v" + i));
    const w = await World.create({ registry: { verifiers: many, threshold: 16 } });
    assert.equal((await ask(w, signed(w, many.map((kp) => ({ kp }))), { value: toNano(1) })).code, 0);
    assert.equal((await ask(w, signed(w, many.slice(1).map((kp) => ({ kp }))), { value: toNano(1) })).code, code.SIGNATURES_TOO_FEW);
  });

  test("at ten thousand manifests an answer costs a longer way down the dictionary", async () => {
    const manifests = Array.from({ length: 10_000 }, (_, i) => ({ hash: hash("listed " + i) }));
    const w = await World.create({ registry: { verifiers: three, threshold: 2, manifests } });
    const v = verdictCell(w.common({ manifest: hash("listed 77") }), [three[0], three[1]].map((kp) =>
      ({ kp, issuedAt: w.chain.now - 5, expiresAt: w.chain.now + 600 })));
    const got = await ask(w, v);
    assert.equal(got.code, 0);
    within(txOf(got.res, w.registry), "checkVerdict, k = 2, 10000 manifests");
  });

  test("a release with a verifiers' fee costs at most 0.01 TON in the mean, also at ten thousand manifests", async () => {
    const manifests = Array.from({ length: 10_000 }, (_, i) => ({ hash: hash("listed " + i) }));
    const fee = toNano("0.01");
    const w = await World.create({ registry: { verifiers: three.slice(0, 2), threshold: 2, manifests, verifierFee: fee } });
    await w.deposit();
    const start = w.chain.snapshot();
    const paid = [];
    for (let i = 0; i < 24; i++) {
      await w.chain.loadFrom(start);
      const v = verdictCell(w.common({ manifest: hash("listed " + i) }), [three[0], three[1]].map((kp) =>
        ({ kp, issuedAt: w.chain.now - 5, expiresAt: w.chain.now + 600 })));
      const before = await w.balance(w.registry);
      const res = await w.release(v, { verifierFee: fee });
      assert.deepEqual([exitCode(res, w.registry), exitCode(res, w.job)], [0, 0]);
      const tx = txOf(res, w.registry);
      within(tx, "checkVerdict, k = 2, with a fee, 10000 manifests");
      const stored = tx.description.storagePhase?.storageFeesCollected ?? 0n;
      assert.equal(await w.balance(w.registry) - before + stored, fee, "the registry keeps the fee, to the nanoton");
      paid.push(spent(tx) + spent(txOf(res, w.job)));
    }
    const mean = paid.reduce((a, b) => a + b) / paid.length;
    ceilings.note(`a release with a fee at 10000: ${mean.toFixed(6)} TON, at most ${Math.max(...paid).toFixed(6)}`);
    assert.ok(mean <= 0.01 && Math.max(...paid) <= 0.0103, `${mean} TON, at most ${Math.max(...paid)}`);
  });

  test("verifiers beyond the first four are credited, too", async () => {
    const nine = Array.from({ length: 9 }, (_, i) => keys("v" + i));
    const fee = 1_000_000_002n;
    const w = await World.create({ registry: { verifiers: nine, threshold: 3, verifierFee: fee } });
    const now = w.chain.now;
    for (const signers of [[0, 4, 8], [4, 5, 8], [1, 2, 3]]) {
      const before = await w.balance(w.registry);
      const v = verdictCell(w.common({ evidence: hash(String(signers)) }), signers.map((i) => ({ kp: nine[i], issuedAt: now, expiresAt: now + 60 })));
      assert.equal((await ask(w, v, { verifierFee: fee, value: toNano("1.1") })).code, 0);
      assert.equal(await w.balance(w.registry) - before, fee);
    }
    const st = await w.registryState();
    const part = fee / 3n;
    assert.deepEqual(nine.map((kp) => st.verifiers.get(keyId(kp)).earned), [part, part, part, part, 2n * part, part, 0n, 0n, 2n * part]);
    assert.equal(st.owed, 9n * part);
  });
});
