// A model of the registry's lists, held against the contract by random actions of
// one seed.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { toNano } from "@ton/core";
import { code, entry, exitCode, fresh, hash, keyId, keys, OWNERS, World } from "./world.mjs";
import { ask, ceilings } from "./registry_helpers.mjs";

const ok = (res, w) => assert.equal(exitCode(res, w.registry), 0);

after(() => ceilings.print());

describe("random actions", () => {
  let seed = 20261126;
  const random = (n) => {
    seed = (seed + 0x6d2b79f5) >>> 0;
    let x = Math.imul(seed ^ (seed >>> 15), seed | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) % n;
  };
  const names = ["a", "b", "c", "d", "e", "f"];
  const DELAY = 1000;
  // Ids do not meet between kinds here.
  const kinds = {
    1: { id: (n) => hash("manifest " + n), fresh: (n) => fresh.manifest(hash("manifest " + n)), on: (n) => entry.manifest(hash("manifest " + n)) },
    2: { id: (n) => hash("model " + n), fresh: (n) => fresh.model(hash("model " + n)), on: (n) => entry.model(hash("model " + n)), off: (n) => entry.model(hash("model " + n), false) },
    3: { id: (n) => hash("policy " + n), fresh: (n) => fresh.policy(hash("policy " + n)), on: (n) => entry.policy(hash("policy " + n)), off: (n) => entry.policy(hash("policy " + n), false) },
    4: { id: (n) => keyId(keys(n)), fresh: (n) => fresh.verifier(keys(n)), on: (n) => entry.verifier(keys(n)), off: (n) => entry.verifier(keys(n), { listed: false }) },
    7: { id: (n) => hash("gateway " + n), fresh: (n, w) => fresh.gateway(hash("gateway " + n), w.gateway.address, "g:1"),
      on: (n, w) => entry.gateway(hash("gateway " + n), w.gateway.address, "g:1"), off: (n) => entry.gateway(hash("gateway " + n)) },
  };

  test("the contract does what the model does", async () => {
    const w = await World.create({ registry: { delay: DELAY, verifiers: ["verifier", "b0"].map(keys) } });
    const model = new Map(); // "kind name" -> { since, number, retired }
    const base = 2; // verifiers that stay
    let k = 1, owners = null, waiting = 0, waitsUntil = 0;
    const met = {};
    const waits = (e) => e && !e.retired && e.number > 0n && w.chain.now < e.since;
    const listed = () => base + [...model.keys()].filter((key) => key.startsWith("4 ")).length;
    const counting = () => listed() - (w.chain.now < waitsUntil ? waiting : 0);
    const forget = (key) => {
      if (key.startsWith("4 ") && waits(model.get(key))) waiting -= 1;
      model.delete(key);
    };
    for (let i = 0; i < 300; i++) {
      // Every third action is about something that waits.
      const pool = [...model].filter(([, e]) => waits(e)).map(([x]) => x);
      const key = pool.length > 0 && random(3) === 0 ? pool[random(pool.length)] : `${[1, 2, 3, 4, 7][random(5)]} ${names[random(names.length)]}`;
      const kind = Number(key[0]);
      const name = key.slice(2);
      const there = model.get(key);
      let want = 0, got, what;
      switch (owners && random(3) === 0 ? "owners" : ["schedule", "schedule", "schedule", "schedule", "veto", "veto", "veto", "off", "off", "on", "k", "owners", "pass", "pass"][random(14)]) {
        case "schedule": {
          what = "schedule";
          got = await w.schedule(kinds[kind].fresh(name, w), { value: random(2) ? toNano("0.0199") : toNano("0.1") });
          if (owners) want = code.OWNERS_PENDING;
          else if (there && (kind === 4 || !waits(there))) want = code.ORDER_MUST_WAIT;
          else {
            if (kind === 4) {
              waiting = w.chain.now < waitsUntil ? waiting + 1 : 1;
              waitsUntil = w.chain.now + DELAY;
            }
            model.set(key, { since: w.chain.now + DELAY, number: got.number });
          }
          break;
        }
        case "veto":
          what = "veto";
          got = await w.vetoScheduled(kind, kinds[kind].id(name), there?.number ?? 0n);
          if (waits(there)) forget(key);
          else want = code.ORDER_NOT_PENDING;
          break;
        case "off":
          if (!kinds[kind].off) continue;
          what = "off";
          got = await w.now([kinds[kind].off(name)]);
          if (kind === 2) model.set(key, { since: 0, number: 0n, retired: true });
          else if (kind === 4) {
            const before = [new Map(model), waiting];
            forget(key);
            if (k > counting() && listed() > 0) {
              want = code.THRESHOLD_INVALID;
              model.clear();
              for (const [x, y] of before[0]) model.set(x, y);
              waiting = before[1];
            }
          } else forget(key);
          break;
        case "on": {
          if (owners) continue; // its execution is the next step, and would drop the order
          what = "on";
          const p = await w.propose([kinds[kind].on(name, w)]);
          ok(p, w);
          w.chain.now += DELAY;
          got = await w.execute(p.number);
          if (kind === 4 && waits(there)) waiting -= 1;
          model.set(key, { since: w.chain.now, number: 0n });
          break;
        }
        case "k": {
          what = "k";
          const next = k + random(2);
          got = await w.now([entry.threshold(next)]);
          if (next > counting()) want = code.THRESHOLD_INVALID;
          else k = next;
          break;
        }
        case "owners":
          what = owners ? "owners come" : "owners are proposed";
          if (owners) {
            w.chain.now = Math.max(w.chain.now, owners.ready);
            for (const [x, e] of model) assert.ok(!waits(e), `${x} waits when owners come`);
            got = await w.execute(owners.number);
            owners = null;
          } else {
            got = await w.propose([entry.owners({ owners: OWNERS, delay: DELAY })]);
            owners = { number: got.number, ready: w.chain.now + DELAY };
          }
          break;
        default:
          w.chain.now += [1, 400, DELAY - 1, DELAY][random(4)];
          continue;
      }
      assert.equal(exitCode(got, w.registry), want, `action ${i}: ${what} of ${key}`);
      met[`${what} ${want}`] = (met[`${what} ${want}`] ?? 0) + 1;
      const st = await w.registryState();
      assert.deepEqual([st.verifierCount, st.threshold, st.ownersPending], [listed(), k, owners ? 1 : 0], `action ${i}: ${what} of ${key}`);
      const really = [...model].filter(([x, e]) => x.startsWith("4 ") && waits(e)).length;
      assert.ok(w.chain.now >= st.waitsUntil ? really === 0 : st.waiting === waiting && really <= waiting, `action ${i}: ${really} wait, ${st.waiting} stated`);
      assert.ok(k <= listed() - really, `action ${i}: k is ${k}, n ${listed() - really}`);
      for (const [m, map] of [[1, st.manifests], [2, st.models], [3, st.policies], [4, st.verifiers], [7, st.gateways]]) {
        for (const n of names) {
          const e = model.get(`${m} ${n}`);
          assert.equal(map.has(kinds[m].id(n)), !!e, `action ${i}: ${m} ${n}`);
          if (m === 2 && e) assert.equal((await ask(w, w.verdict({ modelRoot: kinds[2].id(n) }))).code === 0, !e.retired && !waits(e) && k === 1);
        }
      }
    }
    ceilings.note(`random actions: ${JSON.stringify(met)}`);
    for (const x of ["schedule 0", "veto 0", "off 0", "on 0", "owners come 0", `schedule ${code.OWNERS_PENDING}`, `schedule ${code.ORDER_MUST_WAIT}`]) assert.ok(met[x] > 2, x);
  });
});
