// A small world for the contract tests: a sandbox chain, the compiled
// contracts, and builders for their cells.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Address, beginCell, Cell, contractAddress, Dictionary, toNano } from "@ton/core";
import { keyPairFromSeed, sign } from "@ton/crypto";
import { Blockchain, internal } from "@ton/sandbox";
import { committedPath, root } from "../scripts/compile.mjs";
import { join } from "node:path";

export const GLOBAL_ID = -239;
export const START = 1_800_000_000;
export const HOUR = 3600;
export const DAY = 24 * HOUR;
export const FOREVER = 0xffffffff;

export const op = {
  checkVerdict: 0x43430001, verdictGood: 0x43430002, stakePaid: 0x43570006, excesses: 0xd53276db,
  fund: 0x43520007, registryPaid: 0x43520008, propose: 0x43520010, execute: 0x43520011, veto: 0x43520012, vetoScheduled: 0x43520013, schedule: 0x43520014,
  claim: 0x43520020, postBond: 0x43520021, unbond: 0x43520022, withdrawBond: 0x43520023, slash: 0x43520024,
  deposit: 0x434a0001, redeem: 0x434a0003, close: 0x434a0004,
  finish: 0x434a0005, paid: 0x434a0006, accuse: 0x434a0007,
};
export const trust = { vtpm: 1, tdx: 2 };
export const manifestState = { active: 1, grace: 2, revoked: 3 };
export const status = { funded: 0, released: 1, closing: 2, closed: 3 };
export const RESERVE = toNano("0.1");

/** The constants of codes.tolk by name. */
export const code = Object.fromEntries(
  [...readFileSync(join(root, "tolk", "codes.tolk"), "utf8").matchAll(/^const (\w+) = (\d+)$/gm)]
    .map((m) => [m[1], Number(m[2])]));

export const sha256 = (...parts) => {
  const h = createHash("sha256");
  for (const p of parts) h.update(p);
  return h.digest();
};
export const num = (buf) => BigInt("0x" + buf.toString("hex"));
export const hash = (text) => num(sha256(text));
export const keys = (name) => keyPairFromSeed(sha256("test key " + name));
export const keyId = (kp) => num(sha256(kp.publicKey));

export const codeCell = (name) =>
  Cell.fromBase64(JSON.parse(readFileSync(committedPath(name), "utf8")).codeBoc64);

/** Dictionary values as cells; readers take them apart. */
const cellValue = {
  serialize: (src, b) => b.storeSlice(src.beginParse()),
  parse: (s) => beginCell().storeSlice(s).endCell(),
};
const dictOf = (entries) => {
  const d = Dictionary.empty(Dictionary.Keys.BigUint(256), cellValue);
  for (const [k, v] of entries) d.set(k, v);
  return d;
};

const dict256 = (entries) => dictOf(entries);
export const OWNERS = ["owner 1", "owner 2", "owner 3"].map((n) => keys(n));

export const parametersCell = (p = {}) => beginCell()
  .storeUint(p.minCloseDelay ?? 600, 32)
  .storeCoins(p.minWorkerStake ?? 0n).storeCoins(p.minBond ?? 0n)
  .storeUint(p.unbondDelay ?? 7 * DAY, 32).endCell();

/** The begin of an entry that waits for nothing. */
const settled = (kind) => beginCell().storeUint(kind, 8).storeUint(0, 104);

const verifierCell = (v, account) => {
  const kp = v.kp ?? v;
  return [keyId(kp), settled(4).storeUint(num(kp.publicKey), 256).storeUint(v.validFrom ?? 0, 32)
    .storeUint(v.validUntil ?? FOREVER, 32).storeUint(account, 32).storeBit(true).endCell()];
};

export const ownersDict = (owners) => {
  const d = Dictionary.empty(Dictionary.Keys.Uint(8), Dictionary.Values.BigUint(256));
  owners.forEach((kp, i) => d.set(i, num(kp.publicKey)));
  return d;
};

export function registryData(r) {
  const verifiers = r.verifiers ?? [];
  const lists = dict256([
    ...verifiers.map(verifierCell),
    ...(r.models ?? []).map((m) => [m.root, settled(m.active ?? true ? 2 : 0x82).storeUint(m.nameHash ?? 7n, 256).endCell()]),
    ...(r.policies ?? []).map((p) => [p, settled(3).endCell()]),
    ...(r.gateways ?? []).map((id) => [id, settled(7).storeAddress(new Address(0, sha256("gateway")))
      .storeRef(beginCell().storeStringTail("g:1").endCell()).endCell()]),
  ]);
  const manifests = dict256((r.manifests ?? []).map((m) =>
    [m.hash, beginCell().storeUint(m.state ?? 1, 8).storeUint(m.graceUntil ?? 0, 32).storeUint(0, 72).endCell()]));
  const admin = beginCell().storeUint(0, 8).storeUint(r.ownerThreshold ?? 2, 8).storeUint(r.vetoThreshold ?? 1, 8)
    .storeUint(r.finalThreshold ?? 0, 8).storeUint(r.delay ?? 2 * DAY, 32)
    .storeDict(ownersDict(r.owners ?? OWNERS)).storeSlice(parametersCell(r).beginParse()).storeDict(dict256(r.bonds ?? [])).storeUint(0, 8).storeBit(0).storeCoins(0).storeBit(0).endCell();
  return beginCell()
    .storeUint(5, 16).storeUint(r.version ?? 1, 32).storeUint(r.nextOrder ?? 1, 64)
    .storeRef(admin).storeDict(manifests).storeDict(lists).storeBit(0)
    .storeBit(r.paused ?? false).storeBit(r.devnet ?? true)
    .storeUint(r.trustClasses ?? (1 << trust.vtpm) | (1 << trust.tdx), 32)
    .storeUint(r.feeCapBps ?? 1000, 16).storeCoins(r.verifierFee ?? 0n)
    .storeUint(r.freshness ?? HOUR, 16).storeUint(r.threshold ?? 1, 8)
    .storeCoins(0).storeUint(0, 256)
    .storeUint(verifiers.length, 32).storeUint(verifiers.length, 8).storeUint(0, 40)
    .endCell();
}

export function readRegistry(data) {
  const s = data.beginParse();
  const d256 = (x) => x.loadDict(Dictionary.Keys.BigUint(256), cellValue);
  const out = {
    layout: s.loadUint(16), version: s.loadUint(32), nextOrder: s.loadUintBig(64),
  };
  const a = s.loadRef().beginParse();
  out.manifests = d256(s);
  const lists = d256(s);
  const accounts = s.loadDict(Dictionary.Keys.Uint(32), Dictionary.Values.BigUint(256));
  const earned = (account) => ((account < 4 ? out.fees : accounts.get(account >>> 2) ?? 0n) >> BigInt(64 * (account & 3))) & ((1n << 64n) - 1n);
  Object.assign(out, {
    paused: s.loadBit(), devnet: s.loadBit(), trustClasses: s.loadUint(32),
    feeCapBps: s.loadUint(16), verifierFee: s.loadCoins(),
    freshness: s.loadUint(16), threshold: s.loadUint(8), owed: s.loadCoins(), fees: s.loadUintBig(256),
    nextAccount: s.loadUint(32), verifierCount: s.loadUint(8), waiting: s.loadUint(8), waitsUntil: s.loadUint(32),
  });
  s.endParse();
  const of = (...kinds) => new Map([...lists].filter(([, cell]) => kinds.includes(cell.beginParse().loadUint(8))));
  Object.assign(out, { models: of(2, 0x82), policies: of(3), gateways: of(7) });
  out.verifiers = new Map([...of(4)].map(([id, cell]) => {
    const v = cell.beginParse().skip(8);
    const since = v.loadUint(32);
    v.skip(72);
    const e = { since, publicKey: v.loadUintBig(256), validFrom: v.loadUint(32), validUntil: v.loadUint(32), account: v.loadUint(32), listed: v.loadBit() };
    v.endParse();
    return [id, { ...e, earned: earned(e.account) }];
  }));
  Object.assign(out, {
    ownersPending: a.loadUint(8), ownerThreshold: a.loadUint(8), vetoThreshold: a.loadUint(8), finalThreshold: a.loadUint(8), delay: a.loadUint(32),
    owners: a.loadDict(Dictionary.Keys.Uint(8), Dictionary.Values.BigUint(256)),
    minCloseDelay: a.loadUint(32), minWorkerStake: a.loadCoins(), minBond: a.loadCoins(), unbondDelay: a.loadUint(32),
  });
  out.bonds = new Map([...d256(a)].map(([id, cell]) => {
    const v = cell.beginParse();
    return [id, { owner: v.loadAddress(), amount: v.loadCoins(), unbonding: v.loadCoins(), unlockAt: v.loadUint(32) }];
  }));
  Object.assign(out, {
    pendingCount: a.loadUint(8), pending: a.loadDict(Dictionary.Keys.BigUint(64), cellValue), slashed: a.loadCoins(), checkpoints: d256(a),
  });
  a.endParse();
  return out;
}

/** New entries to schedule: kind, id, and what the list says about them. */
export const fresh = {
  manifest: (hash) => (b) => b.storeUint(1, 8).storeUint(hash, 256),
  model: (root) => (b) => b.storeUint(2, 8).storeUint(root, 256).storeUint(5n, 256),
  policy: (hash) => (b) => b.storeUint(3, 8).storeUint(hash, 256),
  verifier: (kp, { from = 0, until = FOREVER } = {}) => (b) =>
    b.storeUint(4, 8).storeUint(num(kp.publicKey), 256).storeUint(from, 32).storeUint(until, 32),
  gateway: (id, payout, endpoint) => (b) => b.storeUint(7, 8).storeUint(id, 256).storeAddress(payout).storeRef(beginCell().storeStringTail(endpoint).endCell()),
};

/** Entries of an order, each a function that fills its cell behind the next entry's reference. */
export const entry = {
  manifest: (hash, state = manifestState.active, until = 0) => (b) => b.storeUint(1, 8).storeUint(hash, 256).storeUint(state, 8).storeUint(until, 32),
  model: (root, active = true) => (b) => b.storeUint(2, 8).storeUint(root, 256).storeUint(5n, 256).storeBit(active),
  policy: (hash, accepted = true) => (b) => b.storeUint(3, 8).storeUint(hash, 256).storeBit(accepted),
  verifier: (kp, { from = 0, until = FOREVER, listed = true } = {}) => (b) =>
    b.storeUint(4, 8).storeUint(num(kp.publicKey), 256).storeUint(from, 32).storeUint(until, 32).storeBit(listed),
  threshold: (k) => (b) => b.storeUint(5, 8).storeUint(k, 8),
  paused: (p) => (b) => b.storeUint(6, 8).storeBit(p),
  gateway: (id, payout, endpoint) => (b) => payout
    ? b.storeUint(7, 8).storeUint(id, 256).storeBit(true).storeAddress(payout).storeRef(beginCell().storeStringTail(endpoint).endCell())
    : b.storeUint(7, 8).storeUint(id, 256).storeBit(false),
  checkpoint: (origin, size, root) => (b) => b.storeUint(8, 8).storeUint(origin, 256).storeUint(size, 64).storeUint(root, 256),
  parameters: (p = {}) => (b) => b.storeUint(9, 8).storeUint(p.trustClasses ?? (1 << trust.vtpm) | (1 << trust.tdx), 32)
    .storeUint(p.freshness ?? HOUR, 16).storeUint(p.feeCapBps ?? 1000, 16).storeCoins(p.verifierFee ?? 0n)
    .storeSlice(parametersCell(p).beginParse()),
  owners: (o) => (b) => b.storeUint(10, 8).storeUint(o.threshold ?? 2, 8).storeUint(o.veto ?? 1, 8)
    .storeUint(o.final ?? 0, 8).storeUint(o.delay ?? 2 * DAY, 32).storeDict(ownersDict(o.owners)),
  upgrade: (code) => (b) => b.storeUint(11, 8).storeRef(code),
  withdraw: (to, amount) => (b) => b.storeUint(12, 8).storeAddress(to).storeCoins(amount),
};
export const entriesCell = (list) => list.reduceRight(
  (next, fill) => fill(beginCell().storeMaybeRef(next)).endCell(), null);

/** A list of owners' signatures over a hash: [[index, key pair], …]. */
export const ownerSignatures = (hash, signers) => signers.reduceRight((next, [index, kp]) =>
  beginCell().storeUint(index, 8).storeBuffer(sign(hash, kp.secretKey)).storeMaybeRef(next).endCell(), null);

export const bindingCell = (b) => beginCell().storeAddress(b.payout).storeUint(b.modelRoot, 256).storeUint(b.policyHash, 256).endCell();

export function termsCell(t) {
  const demand = beginCell().storeUint(t.priceCap ?? 1000n, 64).storeCoins(t.minStake ?? 0n).storeUint(t.salt ?? 1n, 256).endCell();
  const parties = beginCell().storeAddress(t.registry).storeAddress(t.client).storeAddress(t.stake ?? null).endCell();
  return beginCell().storeAddress(t.payout).storeUint(num(t.clientKey), 256).storeUint(t.feeBps ?? 0, 16)
    .storeAddress(t.gateway ?? null).storeUint(t.closeDelay ?? HOUR, 32)
    .storeRef(bindingCell({ ...t, payout: t.boundPayout ?? t.payout })).storeRef(parties).storeRef(demand).endCell();
}

export function jobData(terms) {
  return beginCell().storeUint(4, 16).storeCoins(0).storeUint(0, 64).storeUint(0, 64).storeUint(0, 256).storeUint(0, 32)
    .storeUint(0, 8).storeCoins(0).storeBit(0).storeUint(0, 32).storeUint(0, 16).storeRef(termsCell(terms)).endCell();
}

export function readJob(data) {
  const s = data.beginParse();
  const out = {
    layout: s.loadUint(16), paid: s.loadCoins(),
    seq: s.loadUintBig(64), receiptCount: s.loadUintBig(64), receiptsRoot: s.loadUintBig(256),
    touchedAt: s.loadUint(32), status: s.loadUint(8), deposited: s.loadCoins(),
  };
  out.verdicts = s.loadDict(Dictionary.Keys.BigUint(256), cellValue);
  Object.assign(out, { closeAt: s.loadUint(32), verdictCount: s.loadUint(16) });
  out.terms = s.loadRef();
  s.endParse();
  return out;
}

export function commonCell(c) {
  return beginCell().storeUint(0x43564331, 32).storeUint(c.version ?? 2, 16)
    .storeInt(c.globalId ?? GLOBAL_ID, 32).storeAddress(c.registry)
    .storeUint(c.trustClass ?? trust.vtpm, 8).storeUint(c.receiptKey, 256).storeUint(c.manifest, 256)
    .storeRef(bindingCell(c)).storeRef(beginCell().storeUint(c.evidence, 256).endCell()).endCell();
}

/** signers: [{kp, issuedAt, expiresAt, forge?, id?}]; sorted by key id unless raw. */
export function verdictCell(common, signers, { raw = false } = {}) {
  const list = signers.map((s) => {
    const id = s.id ?? keyId(s.kp);
    const statement = beginCell().storeUint(0x43565331, 32).storeBuffer(common.hash())
      .storeUint(id, 256).storeUint(s.issuedAt, 64).storeUint(s.expiresAt, 64).endCell();
    const signature = sign(statement.hash(), s.kp.secretKey);
    if (s.forge) signature[10] ^= 1;
    return { id, ...s, signature };
  });
  if (!raw) list.sort((a, b) => (a.id < b.id ? -1 : 1));
  let next = null;
  for (const s of list.reverse()) {
    next = beginCell().storeUint(s.id, 256).storeUint(s.issuedAt, 64).storeUint(s.expiresAt, 64)
      .storeBuffer(s.signature).storeMaybeRef(next).endCell();
  }
  return beginCell().storeRef(common).storeRef(next).endCell();
}

export function voucherCell(v) {
  return beginCell().storeUint(v.tag ?? 0x43565531, 32).storeInt(v.globalId ?? GLOBAL_ID, 32)
    .storeAddress(v.job).storeUint(v.seq, 64).storeCoins(v.amount).storeUint(v.count ?? v.seq, 64)
    .storeRef(beginCell().storeUint(v.root ?? 99n, 256).storeUint(v.verdictHash, 256).endCell()).endCell();
}

/**
 * Replays a result's transactions over the balances from before it: what an
 * account had and received is what it has left, sent (with forward fees) and
 * paid. Returns the total fees, so that a caller can close the sum.
 */
export function replayBalances(transactions, balances) {
  let fees = 0n;
  for (const tx of transactions) {
    let balance = balances.get(tx.address) ?? 0n;
    if (tx.inMessage?.info.type === "internal") balance += tx.inMessage.info.value.coins;
    balance -= tx.totalFees.coins;
    fees += tx.totalFees.coins;
    for (const m of tx.outMessages.values()) {
      if (m.info.type !== "internal") continue;
      balance -= m.info.value.coins + m.info.forwardFee;
      fees += m.info.forwardFee;
    }
    balances.set(tx.address, balance);
  }
  return fees;
}

export class World {
  static async create({ registry = {}, terms = {}, deploy = true } = {}) {
    const w = new World();
    w.chain = await Blockchain.create();
    w.chain.now = START;
    w.owner = await w.chain.treasury("owner", { balance: toNano(1000) });
    w.client = await w.chain.treasury("client", { balance: toNano(1000) });
    w.payout = await w.chain.treasury("payout", { balance: toNano(1000) });
    w.gateway = await w.chain.treasury("gateway", { balance: toNano(1000) });
    w.anyone = await w.chain.treasury("anyone", { balance: toNano(1000) });
    w.verifier = keys("verifier");
    w.clientKey = keys("client");
    w.modelRoot = hash("model");
    w.policyHash = hash("policy");
    w.manifest = hash("manifest");
    const rData = registryData({
      verifiers: [w.verifier], manifests: [{ hash: w.manifest }],
      models: [{ root: w.modelRoot }], policies: [w.policyHash], ...registry,
    });
    const rInit = { code: codeCell("registry"), data: rData };
    w.registry = contractAddress(0, rInit);
    if (deploy) await w.send(w.owner, w.registry, beginCell().storeUint(op.fund, 32).storeUint(0, 64).endCell(), { value: toNano("0.2"), init: rInit });
    w.terms = {
      client: w.client.address, payout: w.payout.address, clientKey: w.clientKey.publicKey,
      registry: w.registry, modelRoot: w.modelRoot, policyHash: w.policyHash,
      gateway: w.gateway.address, feeBps: 500, ...terms,
    };
    w.jobInit = { code: codeCell("job"), data: jobData(w.terms) };
    w.job = contractAddress(0, w.jobInit);
    return w;
  }

  /** An address that nothing was deployed to. */
  static cold(name) { return new Address(0, sha256("cold " + name)); }

  /** Sends a message; returns the result with the transactions of each contract. */
  async send(from, to, body, { value = toNano("0.1"), init, bounce = true } = {}) {
    const res = await this.chain.sendMessage(internal({
      from: from.address ?? from, to, value, body, bounce, stateInit: init,
    }), { now: this.chain.now });
    return res;
  }

  body(opcode, fill = (b) => b, queryId = 0) {
    return fill(beginCell().storeUint(opcode, 32).storeUint(queryId, 64)).endCell();
  }

  deposit(amount = toNano(10), { from = this.client, value = amount + RESERVE + toNano("0.1") } = {}) {
    return this.send(from, this.job, this.body(op.deposit, (b) => b.storeCoins(amount)), { value, init: this.jobInit });
  }

  common(over = {}) {
    return commonCell({
      registry: this.registry, receiptKey: hash("receipt key"), payout: this.terms.payout,
      manifest: this.manifest, modelRoot: this.modelRoot, policyHash: this.policyHash,
      evidence: hash("evidence"), ...over,
    });
  }

  verdict(over = {}, sigOver = {}) {
    const common = this.common(over);
    const now = this.chain.now;
    return verdictCell(common, [{ kp: this.verifier, issuedAt: now - 10, expiresAt: now + 1800, ...sigOver }]);
  }

  /** Narrows a manifest's state: such an order acts at once. */
  setManifest(h, state, until = 0) { return this.now([entry.manifest(h, state, until)]); }

  /** Sends a verdict to the registry, for the job. */
  release(verdict = this.verdict(), { from = this.anyone, to = this.job, value = toNano("0.1"), verifierFee = 0n, queryId = 0 } = {}) {
    return this.send(from, this.registry, this.body(op.checkVerdict, (b) =>
      b.storeAddress(to).storeCoins(verifierFee).storeRef(verdict.refs[0]).storeRef(verdict.refs[1]), queryId), { value });
  }

  voucher(v = {}) {
    return voucherCell({ job: this.job, seq: 1, amount: toNano(1), verdictHash: num(this.common().hash()), ...v });
  }

  redeem(voucher = this.voucher(), { from = this.anyone, kp = this.clientKey, value = toNano("0.1"), signature } = {}) {
    const sig = signature ?? sign(voucher.hash(), kp.secretKey);
    return this.send(from, this.job, this.body(op.redeem, (b) => b.storeBuffer(sig).storeRef(voucher)), { value });
  }

  close(from = this.client) { return this.send(from, this.job, this.body(op.close)); }
  finish(from = this.anyone) { return this.send(from, this.job, this.body(op.finish)); }

  /** The registry's word to the job, as if from it (or from someone else). */
  good({ from = this.registry, over = {}, verdictHash = num(this.common().hash()), until = this.chain.now + 1800, renewalsOnly = false, feeCap = 1000, value, bounce = true } = {}) {
    const binding = bindingCell({ ...this.terms, ...over });
    return this.send(from, this.job, this.body(op.verdictGood, (b) => b.storeAddress(this.anyone.address)
      .storeUint(verdictHash, 256).storeUint(hash("receipt key"), 256).storeUint(until, 32).storeBit(renewalsOnly).storeUint(feeCap, 16)
      .storeRef(binding)), { bounce, value });
  }

  order(entries, { number, later = true, validUntil = this.chain.now + HOUR, globalId = GLOBAL_ID, registry = this.registry } = {}) {
    return beginCell().storeUint(0x434f5231, 32).storeInt(globalId, 32).storeAddress(registry)
      .storeUint(number, 64).storeUint(validUntil, 32).storeBit(later).storeRef(entriesCell(entries)).endCell();
  }

  /** Sends an order, signed by the first two owners unless told otherwise. */
  async propose(entries, opts = {}) {
    const number = opts.number ?? (await this.registryState()).nextOrder;
    const order = opts.order ?? this.order(entries, { ...opts, number });
    const signers = opts.signers ?? [[0, OWNERS[0]], [1, OWNERS[1]]];
    const res = await this.send(opts.from ?? this.anyone, this.registry, this.body(op.propose, (b) =>
      b.storeRef(order).storeRef(opts.signatures ?? ownerSignatures(order.hash(), signers))), { value: opts.value });
    return Object.assign(res, { order, number });
  }

  /** Schedules an entry, signed by the first two owners unless told otherwise. */
  async schedule(change, { number, validUntil = this.chain.now + HOUR, signers = [[0, OWNERS[0]], [1, OWNERS[1]]], globalId = GLOBAL_ID,
    registry = this.registry, signatures, value } = {}) {
    number ??= (await this.registryState()).nextOrder;
    const signed = (b) => change(b.storeUint(number, 64).storeUint(validUntil, 32));
    const hash = signed(beginCell().storeUint(0x434f5331, 32).storeInt(globalId, 32).storeAddress(registry)).endCell().hash();
    const list = signatures ?? ownerSignatures(hash, signers);
    const res = await this.send(this.anyone, this.registry, this.body(op.schedule, (b) => signed(b.storeRef(list))), { value });
    return Object.assign(res, { number, list });
  }

  vetoScheduled(kind, id, number, signers = [[2, OWNERS[2]]], value) {
    const vetoed = beginCell().storeUint(0x434f5632, 32).storeUint(number, 64).storeUint(kind, 8).storeUint(id, 256).endCell();
    const statement = beginCell().storeUint(0x434f5631, 32).storeInt(GLOBAL_ID, 32).storeAddress(this.registry).storeBuffer(vetoed.hash()).endCell();
    return this.send(this.anyone, this.registry, this.body(op.vetoScheduled, (b) =>
      b.storeUint(kind, 8).storeUint(id, 256).storeRef(ownerSignatures(statement.hash(), signers))), { value });
  }

  /** An order that acts at once. */
  now(entries, opts = {}) { return this.propose(entries, { ...opts, later: false }); }

  execute(number, { from = this.anyone, value } = {}) {
    return this.send(from, this.registry, this.body(op.execute, (b) => b.storeUint(number, 64)), { value });
  }

  veto(order, number, signers = [[2, OWNERS[2]]]) {
    const statement = beginCell().storeUint(0x434f5631, 32).storeInt(GLOBAL_ID, 32).storeAddress(this.registry)
      .storeBuffer(order.hash()).endCell();
    return this.send(this.anyone, this.registry, this.body(op.veto, (b) =>
      b.storeUint(number, 64).storeRef(ownerSignatures(statement.hash(), signers))));
  }

  /** Proposes, waits the time lock, executes; the verdicts of a test are made after it. */
  async apply(entries, opts = {}) {
    const proposed = await this.propose(entries, opts);
    if (exitCode(proposed, this.registry) !== 0) return proposed;
    this.chain.now += (await this.registryState()).delay;
    return this.execute(proposed.number);
  }

  async balance(addr) { return (await this.chain.getContract(addr.address ?? addr)).balance; }
  async jobState() { return readJob(await this.data(this.job)); }
  async registryState() { return readRegistry(await this.data(this.registry)); }
  async data(addr) {
    const acc = (await this.chain.getContract(addr)).account;
    if (acc.account?.storage.state.type !== "active") throw new Error("not active: " + addr);
    return acc.account.storage.state.state.data;
  }
}

export const at = (addr) => num((addr.address ?? addr).hash);
/** The first transaction of an address in a result. */
export const txOf = (res, addr) => res.transactions.find((t) => t.address === at(addr));
export const txsOf = (res, addr) => res.transactions.filter((t) => t.address === at(addr));
export const exitCode = (res, addr) => {
  const tx = txOf(res, addr);
  const c = tx?.description.computePhase;
  return c?.type === "vm" ? c.exitCode : `skipped:${c?.reason}`;
};
export const gasOf = (tx) => tx.description.computePhase.gasUsed;

const actors = ["owner", "client", "payout", "gateway", "anyone"];

/** Runs a step and checks that no nanoton appeared or vanished in it. */
export async function conserved(w, step) {
  const addrs = [...actors.map((a) => w[a].address), w.registry, w.job];
  const before = new Map();
  for (const a of addrs) before.set(at(a), await w.balance(a));
  const sender = new Map(before);
  const res = await step();
  // sendMessage makes value appear out of nowhere at the first contract: the
  // sandbox's sender is not charged, so the sum starts with that value.
  const fees = replayBalances(res.transactions, sender);
  const after = new Map();
  for (const a of addrs) after.set(at(a), await w.balance(a));
  assert.deepEqual([...after], [...sender], "balances follow from the transactions");
  const sum = (m) => [...m.values()].reduce((x, y) => x + y, 0n);
  const first = res.transactions[0].inMessage.info;
  assert.equal(sum(before) + first.value.coins, sum(after) + fees, "sum in = sum out + fees");
  return { res, fees, before: (a) => before.get(at(a)), after: (a) => after.get(at(a)) };
}

export async function released(opts) {
  const w = await World.create(opts);
  assert.equal(exitCode(await w.deposit(), w.job), 0);
  await w.release();
  assert.equal((await w.jobState()).status, status.released);
  return w;
}

export const refused = async (w, res, want) => {
  assert.equal(exitCode(res, w.job), code[want]);
  assert.ok(txsOf(res, res.transactions[0].inMessage.info.src).some((t) => t.inMessage.info.bounced), "the money bounces back");
};
