// Repeats the history of a Go devnet in @ton/sandbox and compares.
//
//   node contracts/scripts/replay.mjs < trace.json
//
// The trace (contracts/devnet/trace.go) holds the config, the accounts of block
// 1, and per transaction the message, time, logical time and seed. Accounts are
// carried along here: only the first state of each comes from the trace, so a
// difference in one step shows in all that follow. Prints a report as JSON;
// ends with 1 at the first difference.
import { readFileSync } from 'node:fs';
import { beginCell, Cell, loadTransaction } from '@ton/core';
import { Executor } from '@ton/sandbox';

const trace = JSON.parse(readFileSync(0, 'utf8'));
const boc = (cell) => cell.toBoc({ idx: false, crc32: false }).toString('base64');
const read = (base64) => Cell.fromBase64(base64);
const same = (what, got, want) => {
  const a = read(got);
  const b = read(want);
  if (!a.equals(b) || boc(a) !== boc(b)) {
    console.error(`${what} differs:\n@ton/sandbox ${a.toString()}\ndevnet ${b.toString()}`);
    process.exit(1);
  }
};
const fail = (text) => {
  console.error(text);
  process.exit(1);
};

const executor = await Executor.create();
const accounts = new Map(trace.genesis.map((a) => [a.id, a.account]));
// The package's own empty account is one that exists without code; a chain
// starts from none at all.
const none = beginCell().storeRef(beginCell().storeBit(0).endCell()).storeUint(0, 256).storeUint(0, 64)
  .endCell().toBoc().toString('base64');
const run = (s, account) => executor.runTransaction({
  config: trace.config, libs: null, verbosity: 'short', shardAccount: account, message: read(s.message),
  now: s.now, lt: BigInt(s.lt), randomSeed: Buffer.from(s.seed, 'hex'), ignoreChksig: false, debugEnabled: false,
});

const report = { transactions: 0, accounts: 0, refusals: 0, deploys: 0, bounced: 0, failed: 0, skipped: 0 };
for (const [i, s] of trace.steps.entries()) {
  const name = `transaction ${i} of ${s.id} at lt ${s.lt}`;
  const { result } = await run(s, accounts.get(s.id) ?? none);
  if (!result.success) fail(`${name}: @ton/sandbox refuses it: ${result.error}`);
  same(name, result.transaction, s.transaction);
  accounts.set(s.id, result.shardAccount);
  const tx = loadTransaction(read(result.transaction).beginParse());
  report.transactions++;
  if (tx.oldStatus !== 'active' && tx.endStatus === 'active') report.deploys++;
  if (tx.inMessage?.info.type === 'internal' && tx.inMessage.info.bounced) report.bounced++;
  const compute = tx.description.computePhase;
  if (compute?.type === 'skipped') report.skipped++;
  else if (compute && compute.exitCode > 1) report.failed++;
}
const left = new Map([...accounts].filter(([, a]) => read(a).refs[0].bits.length > 1));
for (const a of trace.final) {
  if (!left.has(a.id)) fail(`account ${a.id} is in the devnet only`);
  same(`account ${a.id}`, left.get(a.id), a.account);
  left.delete(a.id);
  report.accounts++;
}
if (left.size) fail(`account ${[...left.keys()][0]} is in @ton/sandbox only`);
for (const r of trace.refusals ?? []) {
  const { result } = await run(r, r.account);
  if (result.success) fail(`@ton/sandbox accepts the message to ${r.id}`);
  if (result.vmResults?.vmExitCode !== r.exit_code) {
    fail(`exit code of the message to ${r.id}: @ton/sandbox ${result.vmResults?.vmExitCode}, devnet ${r.exit_code}`);
  }
  report.refusals++;
}
report.emulator = executor.getVersion().commitHash;
console.log(JSON.stringify(report));
process.exit(0);
