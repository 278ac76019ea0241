// Every operation of the registry, with gas ceilings, and each refusal.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { beginCell, toNano } from "@ton/core";
import {
  at, code, exitCode, gasOf, hash, HOUR, keyId, keys, manifestState, num, op, trust, txOf,
  txsOf, verdictCell, World,
} from "./world.mjs";

const ceilings = {
  setVerifier: 7500, setManifest: 7200, setModel: 6900, setParameters: 6900, setPaused: 5500, fund: 1600,
  withdraw: 4900, checkVerdict: 8500, notOwner: 2700,
};
const seen = new Map();
const within = (tx, name) => {
  const gas = Number(gasOf(tx));
  seen.set(name, gas);
  assert.ok(gas <= ceilings[name], `${name}: ${gas} gas, ceiling ${ceilings[name]}`);
};

const setVerifier = (w, kp, { enabled = true, threshold = 1, from = w.owner } = {}) =>
  w.send(from, w.registry, w.body(op.setVerifier, (b) =>
    b.storeUint(num(kp.publicKey), 256).storeBit(enabled).storeUint(threshold, 8)));
const setManifest = (w, h, state, graceUntil = 0, from = w.owner) =>
  w.send(from, w.registry, w.body(op.setManifest, (b) =>
    b.storeUint(h, 256).storeUint(state, 8).storeUint(graceUntil, 32)));
const setModel = (w, root, active = true, from = w.owner) =>
  w.send(from, w.registry, w.body(op.setModel, (b) => b.storeUint(root, 256).storeUint(5n, 256).storeBit(active)));
const setParameters = (w, p = {}, from = w.owner) =>
  w.send(from, w.registry, w.body(op.setParameters, (b) =>
    b.storeUint(p.trustClasses ?? 2, 32).storeUint(p.feeCapBps ?? 1000, 16).storeUint(p.freshness ?? HOUR, 32)
      .storeUint(600, 32).storeUint(600, 32)));
const setPaused = (w, paused, from = w.owner) =>
  w.send(from, w.registry, w.body(op.setPaused, (b) => b.storeBit(paused)));
const withdraw = (w, amount, from = w.owner) =>
  w.send(from, w.registry, w.body(op.withdraw, (b) => b.storeCoins(amount)));

/** Asks the registry directly, as a job would, and returns the answer. */
async function ask(w, verdict, { feeBps = 500, from = w.anyone } = {}) {
  const res = await w.send(from, w.registry, w.body(op.checkVerdict, (b) =>
    b.storeUint(feeBps, 16).storeBit(false).storeCoins(0).storeRef(verdict.refs[0]).storeRef(verdict.refs[1]), 77));
  assert.equal(exitCode(res, w.registry), 0);
  const reply = txsOf(res, from.address).at(-1).inMessage;
  const s = reply.body.beginParse();
  assert.equal(s.loadUint(32), op.verdictAnswer);
  assert.equal(s.loadUintBig(64), 77n);
  return { verdictHash: s.loadUintBig(256), code: s.loadUint(16), res };
}

after(() => {
  for (const [name, gas] of seen) console.log(`gas registry.${name} ${gas} (ceiling ${ceilings[name]})`);
});

describe("the owner's operations", () => {
  test("each works within its gas ceiling, raises the version and returns the rest", async () => {
    const w = await World.create();
    const runs = [
      ["setVerifier", () => setVerifier(w, keys("second"))],
      ["setManifest", () => setManifest(w, hash("m2"), manifestState.active)],
      ["setModel", () => setModel(w, hash("model 2"))],
      ["setParameters", () => setParameters(w)],
      ["setPaused", () => setPaused(w, true)],
    ];
    const { version } = await w.registryState();
    const before = await w.balance(w.registry);
    for (const [name, run] of runs) {
      const res = await run();
      assert.equal(exitCode(res, w.registry), 0, name);
      within(txOf(res, w.registry), name);
      assert.equal(await w.balance(w.registry), before, `${name} leaves the balance alone`);
    }
    const funded = await w.send(w.anyone, w.registry, w.body(op.fund), { value: 1_000_000_000n });
    within(txOf(funded, w.registry), "fund");
    assert.ok(await w.balance(w.registry) > before + 990_000_000n, "anyone may fund the registry's storage");
    const st = await w.registryState();
    assert.equal(st.version, version + runs.length);
    assert.equal(st.verifierCount, 2);
    assert.equal(st.paused, true);
    assert.ok(st.manifests.has(hash("m2")) && st.models.has(hash("model 2")));
    assert.ok(st.verifiers.has(keyId(keys("second"))));
  });

  test("none works for anyone else", async () => {
    const w = await World.create();
    const before = await w.data(w.registry);
    const runs = [
      () => setVerifier(w, keys("second"), { from: w.anyone }),
      () => setManifest(w, hash("m2"), manifestState.active, 0, w.anyone),
      () => setModel(w, hash("model 2"), true, w.anyone),
      () => setParameters(w, {}, w.anyone),
      () => setPaused(w, true, w.anyone),
      () => withdraw(w, 1n, w.anyone),
    ];
    for (const run of runs) {
      const res = await run();
      assert.equal(exitCode(res, w.registry), code.NOT_OWNER);
      within(txOf(res, w.registry), "notOwner");
    }
    assert.ok(before.equals(await w.data(w.registry)));
  });

  test("an unknown opcode, an empty body and a truncated one are refused", async () => {
    const w = await World.create();
    for (const [body, want] of [
      [w.body(0x12345678), code.UNKNOWN_OPCODE],
      [beginCell().endCell(), code.UNKNOWN_OPCODE],
      [beginCell().storeUint(op.setPaused, 32).endCell(), 9],
    ]) {
      assert.equal(exitCode(await w.send(w.owner, w.registry, body), w.registry), want);
    }
  });

  test("a threshold over the number of keys, or none, is refused", async () => {
    const w = await World.create();
    assert.equal(exitCode(await setVerifier(w, keys("b"), { threshold: 3 }), w.registry), code.THRESHOLD_INVALID);
    assert.equal(exitCode(await setVerifier(w, keys("b"), { threshold: 0 }), w.registry), code.THRESHOLD_INVALID);
    assert.equal(exitCode(await setVerifier(w, keys("b"), { threshold: 2 }), w.registry), 0);
    assert.equal(exitCode(await setVerifier(w, keys("b"), { enabled: false, threshold: 2 }), w.registry), code.THRESHOLD_INVALID);
    assert.equal(exitCode(await setVerifier(w, keys("b"), { enabled: false, threshold: 1 }), w.registry), 0);
    assert.equal((await w.registryState()).verifierCount, 1);
  });

  test("no 65th verifier", async () => {
    const many = Array.from({ length: 64 }, (_, i) => keys("v" + i));
    const w = await World.create({ registry: { verifiers: many } });
    assert.equal(exitCode(await setVerifier(w, keys("one more")), w.registry), code.VERIFIERS_FULL);
    assert.equal(exitCode(await setVerifier(w, many[3]), w.registry), 0);
    assert.equal((await w.registryState()).verifierCount, 64);
  });

  test("a revoked manifest stays revoked", async () => {
    const w = await World.create();
    assert.equal(exitCode(await setManifest(w, w.manifest, manifestState.revoked), w.registry), 0);
    assert.equal(exitCode(await setManifest(w, w.manifest, manifestState.active), w.registry), code.MANIFEST_REVOKED_FINAL);
    assert.equal(exitCode(await setManifest(w, w.manifest, 0), w.registry), code.MANIFEST_STATE_INVALID);
    assert.equal(exitCode(await setManifest(w, hash("x"), 4), w.registry), code.MANIFEST_STATE_INVALID);
    assert.equal(exitCode(await setManifest(w, hash("x"), manifestState.grace), w.registry), code.MANIFEST_STATE_INVALID);
    assert.equal(exitCode(await setManifest(w, hash("x"), manifestState.active, 5), w.registry), code.MANIFEST_STATE_INVALID);
  });

  test("parameters beyond their limits are refused", async () => {
    const w = await World.create({ registry: { devnet: false, trustClasses: 1 << trust.tdx } });
    assert.equal(exitCode(await setParameters(w, { trustClasses: 4, feeCapBps: 10001 }), w.registry), code.PARAMETERS_INVALID);
    assert.equal(exitCode(await setParameters(w, { trustClasses: 4, freshness: HOUR + 1 }), w.registry), code.PARAMETERS_INVALID);
    assert.equal(exitCode(await setParameters(w, { trustClasses: 4, freshness: 0 }), w.registry), code.PARAMETERS_INVALID);
    assert.equal(exitCode(await setParameters(w, { trustClasses: 6 }), w.registry), code.TRUST_CLASS_DEVNET_ONLY);
    assert.equal(exitCode(await setParameters(w, { trustClasses: 4 }), w.registry), 0);
  });

  test("a withdrawal is exact and leaves the storage reserve", async () => {
    const w = await World.create();
    const have = await w.balance(w.registry);
    const ownerBefore = await w.balance(w.owner);
    const amount = toNano("0.1");
    const res = await withdraw(w, amount);
    assert.equal(exitCode(res, w.registry), 0);
    within(txOf(res, w.registry), "withdraw");
    assert.equal(await w.balance(w.registry), have - amount);
    assert.ok(await w.balance(w.owner) > ownerBefore + amount - toNano("0.01"));
    assert.equal(exitCode(await withdraw(w, have - amount - toNano("0.05") + 1n), w.registry), code.WITHDRAW_TOO_MUCH);
  });
});

describe("a question about a verdict", () => {
  test("a good verdict is answered with 0, its hash, and the money that is left", async () => {
    const w = await World.create();
    const before = await w.balance(w.registry);
    const got = await ask(w, w.verdict());
    assert.equal(got.code, code.ANSWER_OK);
    assert.equal(got.verdictHash, num(w.common().hash()));
    within(txOf(got.res, w.registry), "checkVerdict");
    assert.equal(await w.balance(w.registry), before);
  });

  const now = (w) => w.chain.now;
  const refusals = [
    ["another format version", "VERDICT_VERSION", (w) => w.verdict({ version: 2 })],
    ["another chain", "VERDICT_GLOBAL_ID", (w) => w.verdict({ globalId: -3 })],
    ["another registry", "VERDICT_REGISTRY", (w) => w.verdict({ registry: w.job })],
    ["a trust class that is not accepted", "TRUST_CLASS_REFUSED", (w) => w.verdict({ trustClass: 3 })],
    ["a trust class out of range", "TRUST_CLASS_REFUSED", (w) => w.verdict({ trustClass: 255 })],
    ["an unregistered manifest", "MANIFEST_UNKNOWN", (w) => w.verdict({ manifest: hash("other") })],
    ["an unregistered model", "MODEL_UNKNOWN", (w) => w.verdict({ modelRoot: hash("other") })],
    ["a key that is not a verifier's", "VERIFIER_UNKNOWN", (w) => w.verdict({}, { kp: keys("stranger") })],
    ["a stranger's signature under a verifier's key id", "SIGNATURE_INVALID", (w) => w.verdict({}, { kp: keys("stranger"), id: keyId(w.verifier) })],
    ["a flipped signature bit", "SIGNATURE_INVALID", (w) => w.verdict({}, { forge: true })],
    ["one issued in the future", "VERDICT_NOT_YET_VALID", (w) => w.verdict({}, { issuedAt: now(w) + 1 })],
    ["one that expires now", "VERDICT_EXPIRED", (w) => w.verdict({}, { expiresAt: now(w) })],
    ["one that is over", "VERDICT_EXPIRED", (w) => w.verdict({}, { issuedAt: now(w) - 100, expiresAt: now(w) - 1 })],
    ["one valid for longer than an hour", "VERDICT_INTERVAL", (w) => w.verdict({}, { issuedAt: now(w) - 1, expiresAt: now(w) + HOUR })],
  ];
  for (const [what, want, make] of refusals) {
    test(`${what} is answered ${want}`, async () => {
      const w = await World.create();
      assert.equal((await ask(w, make(w))).code, code[want]);
    });
  }

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

  test("a fee over the cap is refused", async () => {
    const w = await World.create();
    assert.equal((await ask(w, w.verdict(), { feeBps: 1000 })).code, 0);
    assert.equal((await ask(w, w.verdict(), { feeBps: 1001 })).code, code.FEE_OVER_CAP);
  });

  test("vtpm is refused without the devnet flag even where its bit is set", async () => {
    const w = await World.create({ registry: { devnet: false } });
    assert.equal((await ask(w, w.verdict())).code, code.TRUST_CLASS_REFUSED);
    assert.equal((await ask(w, w.verdict({ trustClass: trust.tdx }))).code, 0);
  });

  test("a paused registry says so", async () => {
    const w = await World.create();
    await setPaused(w, true);
    assert.equal((await ask(w, w.verdict())).code, code.REGISTRY_PAUSED);
    await setPaused(w, false);
    assert.equal((await ask(w, w.verdict())).code, 0);
  });

  test("grace ends at its second, revocation at once, a retired model too", async () => {
    const w = await World.create();
    await setManifest(w, w.manifest, manifestState.grace, w.chain.now + 100);
    assert.equal((await ask(w, w.verdict())).code, 0);
    w.chain.now += 99;
    assert.equal((await ask(w, w.verdict())).code, 0);
    w.chain.now += 1;
    assert.equal((await ask(w, w.verdict())).code, code.MANIFEST_GRACE_OVER);
    await setManifest(w, w.manifest, manifestState.active);
    await setModel(w, w.modelRoot, false);
    assert.equal((await ask(w, w.verdict())).code, code.MODEL_RETIRED);
    await setManifest(w, w.manifest, manifestState.revoked);
    assert.equal((await ask(w, w.verdict())).code, code.MANIFEST_REVOKED);
  });

  test("a removed verifier's signature is refused", async () => {
    const w = await World.create({ registry: { verifiers: [keys("verifier"), keys("b")] } });
    await setVerifier(w, keys("verifier"), { enabled: false });
    assert.equal((await ask(w, w.verdict())).code, code.VERIFIER_UNKNOWN);
  });

  test("a malformed verdict throws and its money comes back", async () => {
    const w = await World.create();
    const extra = beginCell().storeSlice(w.common().beginParse()).storeUint(1, 1).endCell();
    const res = await w.send(w.anyone, w.registry, w.body(op.checkVerdict, (b) =>
      b.storeUint(0, 16).storeRef(verdictCell(extra, [{ kp: w.verifier, issuedAt: w.chain.now, expiresAt: w.chain.now + 9 }]))));
    assert.notEqual(exitCode(res, w.registry), 0);
    assert.ok(txsOf(res, w.anyone.address).some((t) => t.inMessage.info.bounced));
  });
});

describe("k of n", () => {
  const three = ["a", "b", "c"].map(keys);
  const world = (threshold) => World.create({ registry: { verifiers: three, threshold } });
  const signed = (w, list, opts) => verdictCell(w.common(), list.map((s) =>
    ({ issuedAt: w.chain.now - 5, expiresAt: w.chain.now + 600, ...s })), opts);

  test("two of three pass a threshold of two, one does not", async () => {
    const w = await world(2);
    assert.equal((await ask(w, signed(w, [{ kp: three[0] }, { kp: three[2] }]))).code, 0);
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

  test("more than sixteen signatures are refused before more gas is spent", async () => {
    const many = Array.from({ length: 17 }, (_, i) => keys("v" + i));
    const w = await World.create({ registry: { verifiers: many, threshold: 16 } });
    assert.equal((await ask(w, signed(w, many.slice(0, 16).map((kp) => ({ kp }))))).code, 0);
    assert.equal((await ask(w, signed(w, many.map((kp) => ({ kp }))))).code, code.SIGNATURE_LIST_INVALID);
  });
});
