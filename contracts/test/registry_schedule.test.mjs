// New entries that wait in their place: what counts when, vetoes, refusals, and
// what an entry costs.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { beginCell, toNano } from "@ton/core";
import { code, DAY, entry, exitCode, fresh, gasOf, hash, keyId, keys, manifestState, op, OWNERS, txOf, txsOf, World } from "./world.mjs";
import { ask, ceilings, grantBody, spent, within } from "./registry_helpers.mjs";

const ok = (res, w) => assert.equal(exitCode(res, w.registry), 0);
const refused = (res, w, want) => assert.equal(exitCode(res, w.registry), code[want], want);

after(() => ceilings.print());

describe("what is scheduled", () => {
  test("a scheduled manifest is active when the time lock is over, by itself", async () => {
    const w = await World.create();
    const { version } = await w.registryState();
    const m = hash("m2");
    const p = await w.schedule(fresh.manifest(m));
    ok(p, w);
    within(txOf(p, w.registry), "schedule a manifest");
    assert.ok(txsOf(p, w.anyone.address).at(-1).inMessage.info.value.coins > toNano("0.09"), "the rest came back");
    const st = await w.registryState();
    assert.deepEqual([st.version, st.nextOrder, st.pendingCount], [version + 1, p.number + 1n, 0]);
    const said = async () => (await w.chain.runGetMethod(w.registry, "manifest_state", [{ type: "int", value: m }])).stack.map((x) => Number(x.value));
    const ready = w.chain.now + 2 * DAY;
    assert.deepEqual(await said(), [0, ready]);
    assert.equal((await ask(w, w.verdict({ manifest: m }))).code, code.MANIFEST_SCHEDULED);
    w.chain.now = ready - 1;
    assert.equal((await ask(w, w.verdict({ manifest: m }))).code, code.MANIFEST_SCHEDULED);
    w.chain.now = ready;
    const got = await ask(w, w.verdict({ manifest: m }));
    assert.deepEqual([got.code, got.renewalsOnly], [0, false]);
    assert.deepEqual(await said(), [1, 0]);
    refused(await w.vetoScheduled(1, m, p.number), w, "ORDER_NOT_PENDING");
    // It is active like any other: grace acts at once, and so does revocation, for good.
    refused(await w.schedule(fresh.manifest(m)), w, "ORDER_MUST_WAIT");
    ok(await w.setManifest(m, manifestState.grace, ready + 100), w);
    ok(await w.setManifest(m, manifestState.revoked), w);
    refused(await w.schedule(fresh.manifest(m)), w, "MANIFEST_REVOKED_FINAL");
  });

  test("what waits is unknown: it can be revoked at once, and nothing less", async () => {
    const w = await World.create();
    for (const n of ["a", "b"]) ok(await w.schedule(fresh.manifest(hash(n))), w);
    refused(await w.setManifest(hash("a"), manifestState.grace, w.chain.now + 9), w, "ORDER_MUST_WAIT");
    refused(await w.setManifest(hash("a"), manifestState.active), w, "ORDER_MUST_WAIT");
    ok(await w.setManifest(hash("a"), manifestState.revoked), w);
    w.chain.now += DAY;
    ok(await w.schedule(fresh.manifest(hash("b"))), w); // anew: it waits again
    w.chain.now += DAY;
    assert.equal((await ask(w, w.verdict({ manifest: hash("a") }))).code, code.MANIFEST_REVOKED);
    assert.equal((await ask(w, w.verdict({ manifest: hash("b") }))).code, code.MANIFEST_SCHEDULED);
    w.chain.now += DAY;
    assert.equal((await ask(w, w.verdict({ manifest: hash("b") }))).code, 0);
  });

  test("one owner vetoes a scheduled manifest; a veto is for that schedule only", async () => {
    const w = await World.create();
    const m = hash("m2");
    const first = await w.schedule(fresh.manifest(m));
    const { version } = await w.registryState();
    refused(await w.vetoScheduled(1, hash("other"), first.number), w, "ORDER_NOT_PENDING");
    refused(await w.vetoScheduled(1, w.manifest, first.number), w, "ORDER_NOT_PENDING");
    refused(await w.vetoScheduled(1, m, first.number + 1n), w, "OWNER_SIGNATURE");
    refused(await w.vetoScheduled(1, m, first.number, [[2, keys("stranger")]]), w, "OWNER_SIGNATURE");
    const v = await w.vetoScheduled(1, m, first.number);
    ok(v, w);
    within(txOf(v, w.registry), "veto what is scheduled");
    const st = await w.registryState();
    assert.ok(!st.manifests.has(m) && st.version === version + 1);
    ok(await w.schedule(fresh.manifest(m)), w);
    refused(await w.vetoScheduled(1, m, first.number), w, "OWNER_SIGNATURE");
    w.chain.now += 2 * DAY;
    assert.equal((await ask(w, w.verdict({ manifest: m }))).code, 0);
  });

  test("a manifest in grace does not wait: fewer owners than an order needs do not end it", async () => {
    const w = await World.create();
    ok(await w.setManifest(w.manifest, manifestState.grace, w.chain.now + DAY), w);
    refused(await w.vetoScheduled(1, w.manifest, 0n), w, "ORDER_NOT_PENDING");
    const got = await ask(w, w.verdict({}));
    assert.deepEqual([got.code, got.renewalsOnly], [0, true]);
  });

  test("a manifest that enough owners scheduled cannot be vetoed by fewer", async () => {
    const five = ["a", "b", "c", "d", "e"].map((n) => keys("owner " + n));
    const w = await World.create({ registry: { owners: five, ownerThreshold: 3, finalThreshold: 4 } });
    const by = (n) => five.slice(0, n).map((kp, i) => [i, kp]);
    const few = await w.schedule(fresh.manifest(hash("few")), { signers: by(3) });
    const many = await w.schedule(fresh.manifest(hash("many")), { signers: by(4) });
    ok(await w.vetoScheduled(1, hash("few"), few.number, [[4, five[4]]]), w);
    refused(await w.vetoScheduled(1, hash("many"), many.number, [[4, five[4]]]), w, "ORDER_FINAL");
  });

  test("nothing is scheduled while an order for other owners is pending, so nothing waits when they come", async () => {
    const w = await World.create({ registry: { delay: 1000 } });
    const next = ["x", "y"].map((n) => keys("new owner " + n));
    const by = next.map((kp, i) => [i, kp]);
    const change = () => w.propose([entry.owners({ owners: next, delay: 100 })]);
    ok(await w.schedule(fresh.manifest(hash("in force"))), w);
    const vetoed = await change();
    refused(await w.schedule(fresh.manifest(hash("late"))), w, "OWNERS_PENDING");
    for (const make of [fresh.model(hash("late")), fresh.policy(hash("late")), fresh.verifier(keys("late"))]) {
      refused(await w.schedule(make), w, "OWNERS_PENDING");
    }
    ok(await w.veto(vetoed.order, vetoed.number), w);
    assert.equal((await w.registryState()).ownersPending, 0);
    ok(await w.schedule(fresh.manifest(hash("between"))), w);
    const p = await change();
    const old = await w.propose([entry.manifest(hash("ordered"))]);
    w.chain.now += 1000;
    ok(await w.execute(p.number), w);
    refused(await w.execute(old.number), w, "ORDER_NOT_PENDING");
    for (const m of ["in force", "between"]) assert.equal((await ask(w, w.verdict({ manifest: hash(m) }))).code, 0, m);
    refused(await w.schedule(fresh.manifest(hash("theirs"))), w, "OWNER_SIGNATURE");
    ok(await w.schedule(fresh.manifest(hash("new")), { signers: by }), w);
    w.chain.now += 100;
    assert.equal((await ask(w, w.verdict({ manifest: hash("new") }))).code, 0);
  });

  test("an order for other owners whose time is over holds nothing up once it is dropped", async () => {
    const w = await World.create();
    const p = await w.propose([entry.owners({ owners: OWNERS })]);
    w.chain.now += 17 * DAY;
    refused(await w.schedule(fresh.manifest(hash("m2"))), w, "OWNERS_PENDING");
    ok(await w.execute(p.number), w);
    ok(await w.schedule(fresh.manifest(hash("m2"))), w);
    for (let i = 0; i < 16; i++) ok(await w.propose([entry.owners({ owners: OWNERS })]), w);
    w.chain.now += 17 * DAY;
    ok(await w.propose([entry.paused(true)]), w);
    assert.deepEqual(await w.registryState().then((st) => [st.pendingCount, st.ownersPending]), [1, 0]);
  });

  test("other owners come first in their order, where their pending is seen", async () => {
    const w = await World.create();
    const hidden = await w.apply([entry.paused(true), entry.owners({ owners: OWNERS })]);
    refused(hidden, w, "OWNERS_NOT_FIRST");
    ok(await w.apply([entry.owners({ owners: OWNERS }), entry.paused(true)]), w);
  });

  // What is scheduled, how a verdict meets it before its time, and after.
  const kinds = {
    model: { kind: 2, make: () => fresh.model(hash("new")), over: { modelRoot: hash("new") }, waits: "MODEL_SCHEDULED", none: "MODEL_UNKNOWN", id: hash("new"),
      off: () => entry.model(hash("new"), false), gone: "MODEL_RETIRED" },
    policy: { kind: 3, make: () => fresh.policy(hash("new")), over: { policyHash: hash("new") }, waits: "POLICY_SCHEDULED", none: "POLICY_NOT_ACCEPTED", id: hash("new"),
      off: () => entry.policy(hash("new"), false), gone: "POLICY_NOT_ACCEPTED" },
    verifier: { kind: 4, make: () => fresh.verifier(keys("new")), signer: { kp: keys("new") }, waits: "VERDICT_NOT_YET_VALID", none: "VERIFIER_UNKNOWN", id: keyId(keys("new")),
      off: () => entry.verifier(keys("new"), { listed: false }), gone: "VERIFIER_UNKNOWN" },
    gateway: { kind: 7, make: (w) => fresh.gateway(hash("new"), w.gateway.address, "gw.example.org:443"), id: hash("new"), off: () => entry.gateway(hash("new")) },
  };
  for (const [name, k] of Object.entries(kinds)) {
    const meets = async (w) => k.waits ? (await ask(w, w.verdict(k.over ?? {}, k.signer ?? {}))).code : null;
    const listed = async (w) => {
      const { stack } = await w.chain.runGetMethod(w.registry, "listed_entry", [{ type: "int", value: BigInt(k.kind) }, { type: "int", value: k.id }]);
      return stack.map((x) => Number(x.value));
    };
    const same = async (w, want) => { if (k.waits) assert.equal(await meets(w), want ? code[want] : 0); };

    test(`a scheduled ${name} counts when the time lock is over, by itself`, async () => {
      const w = await World.create();
      const { version } = await w.registryState();
      await same(w, k.none);
      assert.deepEqual(await listed(w), [-1, 0, 0]);
      const p = await w.schedule(k.make(w));
      ok(p, w);
      within(txOf(p, w.registry), `schedule a ${name}`);
      const ready = w.chain.now + 2 * DAY;
      const st = await w.registryState();
      assert.deepEqual([st.version, st.nextOrder, st.pendingCount], [version + 1, p.number + 1n, 0]);
      assert.deepEqual(await listed(w), [ready, Number(p.number), 2]);
      await same(w, k.waits);
      w.chain.now = ready - 1;
      await same(w, k.waits);
      refused(await w.schedule(k.make(w), { number: p.number }), w, "ORDER_NUMBER");
      w.chain.now = ready;
      await same(w, null);
      refused(await w.vetoScheduled(k.kind, k.id, p.number), w, "ORDER_NOT_PENDING");
      refused(await w.schedule(k.make(w)), w, "ORDER_MUST_WAIT");
      ok(await w.now([k.off()]), w);
      await same(w, k.gone);
    });

    test(`a scheduled ${name} is vetoed by one owner, and taken off at once; a veto is for that schedule only`, async () => {
      const w = await World.create();
      const first = await w.schedule(k.make(w));
      ok(first, w);
      const { version } = await w.registryState();
      refused(await w.vetoScheduled(k.kind, k.id, first.number + 1n), w, "OWNER_SIGNATURE");
      refused(await w.vetoScheduled(k.kind, hash("other"), first.number), w, "ORDER_NOT_PENDING");
      refused(await w.vetoScheduled(k.kind === 3 ? 2 : 3, k.id, first.number), w, "ID_TAKEN");
      refused(await w.vetoScheduled(1, k.id, first.number), w, "ORDER_NOT_PENDING");
      refused(await w.vetoScheduled(k.kind, k.id, first.number, [[2, keys("stranger")]]), w, "OWNER_SIGNATURE");
      const v = await w.vetoScheduled(k.kind, k.id, first.number);
      ok(v, w);
      within(txOf(v, w.registry), "veto what is scheduled");
      let st = await w.registryState();
      assert.deepEqual([st.version, st.verifierCount, st.waiting], [version + 1, 1, 0]);
      assert.deepEqual(await listed(w), [-1, 0, 0]);
      await same(w, k.none);
      const again = await w.schedule(k.make(w));
      ok(again, w);
      refused(await w.vetoScheduled(k.kind, k.id, first.number), w, "OWNER_SIGNATURE");
      ok(await w.now([k.off()]), w);
      refused(await w.vetoScheduled(k.kind, k.id, again.number), w, "ORDER_NOT_PENDING");
      w.chain.now += 3 * DAY;
      await same(w, k.gone);
      st = await w.registryState();
      assert.deepEqual([st.verifierCount, st.waiting], [1, 0]);
    });

    test(`a ${name} that enough owners scheduled cannot be vetoed by fewer`, async () => {
      const five = ["a", "b", "c", "d", "e"].map((n) => keys("owner " + n));
      const w = await World.create({ registry: { owners: five, ownerThreshold: 3, finalThreshold: 4 } });
      const many = await w.schedule(k.make(w), { signers: five.slice(0, 4).map((kp, i) => [i, kp]) });
      ok(many, w);
      refused(await w.vetoScheduled(k.kind, k.id, many.number, [[4, five[4]]]), w, "ORDER_FINAL");
    });
  }

  test("what waits may be scheduled again, and waits anew; a verifier's key may not", async () => {
    const w = await World.create();
    ok(await w.schedule(fresh.model(hash("m"))), w);
    ok(await w.schedule(fresh.verifier(keys("new"))), w);
    w.chain.now += DAY;
    ok(await w.schedule(fresh.model(hash("m"))), w);
    refused(await w.schedule(fresh.verifier(keys("new"))), w, "ORDER_MUST_WAIT");
    w.chain.now += DAY;
    assert.equal((await ask(w, w.verdict({ modelRoot: hash("m") }))).code, code.MODEL_SCHEDULED);
    w.chain.now += DAY;
    assert.equal((await ask(w, w.verdict({ modelRoot: hash("m") }))).code, 0);
  });

  test("what is retired, known, of another kind, or changed in shape is not scheduled", async () => {
    const w = await World.create({ registry: { gateways: [hash("g")], policies: [hash("policy"), keyId(keys("taken"))] } });
    ok(await w.now([entry.model(w.modelRoot, false)]), w);
    const before = await w.data(w.registry);
    const address = w.gateway.address;
    for (const [what, want, make] of [
      ["a retired model", "ORDER_MUST_WAIT", fresh.model(w.modelRoot)],
      ["an accepted policy", "ORDER_MUST_WAIT", fresh.policy(w.policyHash)],
      ["a listed gateway", "ORDER_MUST_WAIT", fresh.gateway(hash("g"), address, "g:1")],
      ["a listed verifier", "ORDER_MUST_WAIT", fresh.verifier(w.verifier)],
      ["a policy's hash as a model", "ID_TAKEN", fresh.model(w.policyHash)],
      ["a verifier's id as a policy", "ID_TAKEN", fresh.policy(keyId(w.verifier))],
      ["a key whose id is a policy's", "ID_TAKEN", fresh.verifier(keys("taken"))],
      ["a key whose time ends before its lock does", "VERIFIER_INTERVAL", fresh.verifier(keys("new"), { until: w.chain.now + 2 * DAY })],
      ["a log", "NOT_SCHEDULABLE", (b) => b.storeUint(8, 8).storeUint(hash("log"), 256)],
      ["no kind", "NOT_SCHEDULABLE", (b) => b.storeUint(0, 8).storeUint(hash("?"), 256)],
      ["a retired model's kind", "NOT_SCHEDULABLE", (b) => b.storeUint(0x82, 8).storeUint(hash("?"), 256).storeUint(1, 256)],
      ["a gateway whose text is not bytes", "PARAMETERS_INVALID", (b) => b.storeUint(7, 8).storeUint(1, 256).storeAddress(address).storeRef(beginCell().storeUint(1, 7).endCell())],
    ]) {
      assert.equal(exitCode(await w.schedule(make), w.registry), code[want], what);
    }
    for (const make of [fresh.manifest(1n), fresh.model(1n), fresh.policy(1n), fresh.verifier(keys("new")), fresh.gateway(1n, address, "g:1")]) {
      assert.equal(exitCode(await w.schedule((b) => make(b).storeBit(1)), w.registry), 9, "a bit more");
      assert.equal(exitCode(await w.schedule((b) => make(b).storeRef(beginCell().endCell())), w.registry), 9, "a reference more");
    }
    assert.ok(before.equals(await w.data(w.registry)));
  });

  test("one id is of one kind, in orders too", async () => {
    const w = await World.create();
    for (const e of [entry.model(w.policyHash), entry.policy(w.modelRoot), entry.gateway(w.policyHash, w.gateway.address, "g:1"), entry.gateway(keyId(w.verifier))]) {
      refused(await w.apply([e]), w, "ID_TAKEN");
    }
    for (const over of [{ modelRoot: w.policyHash }, { policyHash: w.modelRoot }, { policyHash: keyId(w.verifier) }]) {
      assert.equal((await ask(w, w.verdict(over))).code, over.modelRoot ? code.MODEL_UNKNOWN : code.POLICY_NOT_ACCEPTED);
    }
    assert.equal((await ask(w, w.verdict({}, { id: w.policyHash }))).code, code.VERIFIER_UNKNOWN);
  });

  test("a verifier that waits is not counted: k stays possible", async () => {
    const w = await World.create({ registry: { verifiers: ["verifier", "b"].map(keys) } });
    const p = await w.schedule(fresh.verifier(keys("c"), { from: 5 }));
    ok(p, w);
    let st = await w.registryState();
    assert.deepEqual([st.verifierCount, st.waiting, st.waitsUntil], [3, 1, w.chain.now + 2 * DAY]);
    assert.equal(st.verifiers.get(keyId(keys("c"))).validFrom, w.chain.now + 2 * DAY, "not before the time lock");
    refused(await w.now([entry.threshold(3)]), w, "THRESHOLD_INVALID");
    ok(await w.now([entry.threshold(2)]), w);
    refused(await w.now([entry.verifier(keys("b"), { listed: false })]), w, "THRESHOLD_INVALID");
    // A shorter time acts at once, and leaves the veto.
    ok(await w.now([entry.verifier(keys("c"), { from: w.chain.now + 3 * DAY })]), w);
    ok(await w.vetoScheduled(4, keyId(keys("c")), p.number), w);
    ok(await w.schedule(fresh.verifier(keys("c"))), w);
    w.chain.now += 2 * DAY;
    ok(await w.now([entry.threshold(3)]), w);
    ok(await w.schedule(fresh.verifier(keys("d"))), w);
    st = await w.registryState();
    assert.deepEqual([st.verifierCount, st.waiting], [4, 1]);
    refused(await w.now([entry.verifier(keys("c"), { listed: false })]), w, "THRESHOLD_INVALID");
    ok(await w.now([entry.verifier(keys("d"), { listed: false })]), w);
    w.chain.now += DAY;
    refused(await w.now([entry.verifier(keys("c"), { listed: false })]), w, "THRESHOLD_INVALID");
  });

  test("no more verifiers are scheduled than may be listed, and none without the bond that is asked", async () => {
    const many = Array.from({ length: 63 }, (_, i) => keys("v" + i));
    const w = await World.create({ registry: { verifiers: many } });
    ok(await w.schedule(fresh.verifier(keys("a"))), w);
    refused(await w.schedule(fresh.verifier(keys("b"))), w, "VERIFIERS_FULL");
    const bonded = await World.create({ registry: { minBond: toNano(2) } });
    refused(await bonded.schedule(fresh.verifier(keys("a"))), bonded, "VERIFIER_BOND_LOW");
    await bonded.send(bonded.anyone, bonded.registry, grantBody(bonded, keys("a"), toNano(2)), { value: toNano("2.1") });
    ok(await bonded.schedule(fresh.verifier(keys("a"))), bonded);
    await bonded.send(bonded.payout, bonded.registry, bonded.body(op.unbond, (b) => b.storeUint(keyId(keys("a")), 256)));
    const st = await bonded.registryState();
    assert.ok(!st.verifiers.has(keyId(keys("a"))) && st.verifierCount === 1 && st.waiting === 0, "who takes the bond back is off the list");
  });

  test("forged, replayed, misdirected, expired and thin schedules are refused", async () => {
    const w = await World.create();
    const m = hash("m2");
    const before = await w.data(w.registry);
    const [one, two] = OWNERS.map((kp, i) => [i, kp]);
    for (const [what, want, opts] of [
      ["one signature", "OWNERS_TOO_FEW", { signers: [one] }],
      ["the same owner twice", "OWNER_LIST_INVALID", { signers: [one, one] }],
      ["a stranger", "OWNER_SIGNATURE", { signers: [one, [1, keys("stranger")]] }],
      ["an index that nobody has", "OWNER_UNKNOWN", { signers: [one, two, [3, keys("stranger")]] }],
      ["another network", "OWNER_SIGNATURE", { globalId: -3 }],
      ["another registry", "OWNER_SIGNATURE", { registry: w.job }],
      ["its last second", "ORDER_EXPIRED", { validUntil: w.chain.now }],
      ["a number that is used up", "ORDER_NUMBER", { number: 0n }],
      ["a number far ahead", "ORDER_NUMBER", { number: 1025n }],
    ]) {
      const res = await w.schedule(fresh.manifest(m), opts);
      assert.equal(exitCode(res, w.registry), code[want], what);
      within(txOf(res, w.registry), "refused order");
    }
    assert.ok(before.equals(await w.data(w.registry)));
    const good = await w.schedule(fresh.manifest(m), { number: 5n });
    ok(good, w);
    refused(await w.schedule(fresh.manifest(m), { number: 5n }), w, "ORDER_NUMBER");
    refused(await w.schedule(fresh.manifest(hash("other")), { number: 6n, signatures: good.list }), w, "OWNER_SIGNATURE");
  });
});

describe("the cost of an entry", () => {
  // What a new entry costs in all, alone: its path in the dictionary is not always
  // as long, so the mean of many, and the dearest. The value is one of which
  // nothing is given back.
  const alone = {
    manifest: (w, i) => fresh.manifest(hash(`scheduled ${i}`)), model: (w, i) => fresh.model(hash(`scheduled ${i}`)),
    policy: (w, i) => fresh.policy(hash(`scheduled ${i}`)), gateway: (w, i) => fresh.gateway(hash(`scheduled ${i}`), w.gateway.address, "gateway.example.org:443"),
    verifier: (w, i) => fresh.verifier(keys(`scheduled ${i}`)),
  };
  for (const [name, n, goal, dearest, times] of [
    ["64", 64, 0.005, { manifest: 0.0047, model: 0.005, policy: 0.005, gateway: 0.0053, verifier: 0.0056 }, 32],
    ["10000", 10_000, 0.008, { manifest: 0.0061, model: 0.0065, policy: 0.0065, gateway: 0.0068, verifier: 0.007 }, 5],
  ]) {
    test(`an entry at ${name} entries: gas and fees, scheduled alone and ordered in a batch`, async () => {
      const ids = (what, count) => Array.from({ length: count }, (_, i) => hash(`${what} ${i}`));
      const w = await World.create({ registry: {
        manifests: ids("listed", n).map((h) => ({ hash: h })), verifiers: ["verifier", "b"].map(keys), threshold: 2,
        models: ids("model", n / 2 - 2).map((root) => ({ root })), policies: ids("policy", n / 4), gateways: ids("gateway", n / 4),
      } });
      const now = w.chain.snapshot();
      for (const [kind, make] of Object.entries(alone)) {
        const paid = [];
        let gas = 0n;
        for (let i = 0; i < times; i++) {
          await w.chain.loadFrom(now);
          const res = await w.schedule(make(w, i), { number: 1n, value: toNano("0.0199") });
          ok(res, w);
          const tx = txOf(res, w.registry);
          assert.equal(tx.outMessages.size, 0);
          paid.push(spent(tx));
          gas += gasOf(tx);
        }
        const mean = paid.reduce((a, b) => a + b) / paid.length;
        const max = Math.max(...paid);
        ceilings.note(`entry at ${name}, a ${kind} scheduled: ${gas / BigInt(times)} gas, ${mean.toFixed(6)} TON, at most ${max.toFixed(6)}, ${paid.filter((x) => x > goal).length} of ${times} over ${goal}`);
        assert.ok(max <= dearest[kind], `a ${kind}: ${max} TON`);
        assert.ok(mean <= goal, `a ${kind}: ${mean} TON in the mean`);
      }
      const cost = async (count) => {
        const p = await w.propose(Array.from({ length: count }, (_, i) => entry.manifest(hash(`new ${count} ${i}`))));
        ok(p, w);
        w.chain.now += 2 * DAY;
        const e = await w.execute(p.number);
        ok(e, w);
        const txs = [txOf(p, w.registry), txOf(e, w.registry)];
        const each = txs.map(spent).reduce((a, b) => a + b) / count;
        ceilings.note(`entry at ${name}, ${count} in an order: ${gasOf(txs[0])} + ${gasOf(txs[1])} gas, ${each.toFixed(6)} TON each`);
        return each;
      };
      await cost(1);
      assert.ok(await cost(4) <= goal, `at most ${goal} TON in an order of four`);
      await cost(16);
    });
  }

  test("what scheduling leaves of a small value stays for the entry's storage, what it leaves of a larger one comes back", async () => {
    const w = await World.create();
    for (const [value, back] of [[toNano("0.02") - 1n, 0], [toNano("0.02"), 1]]) {
      const before = await w.balance(w.registry);
      const res = await w.schedule(fresh.manifest(hash(`m ${value}`)), { value });
      ok(res, w);
      const tx = txOf(res, w.registry);
      assert.equal(tx.outMessages.size, back);
      assert.equal(await w.balance(w.registry) - before, back ? 0n : value - tx.totalFees.coins);
    }
  });
});
