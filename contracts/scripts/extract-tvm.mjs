// Extracts the TVM emulator and its blockchain config from the pinned
// @ton/sandbox package into a directory (default: build/tvm at the root of the
// repository), after comparing their SHA-256 with the values below.
//
//   node contracts/scripts/extract-tvm.mjs [DIR]
//
// The Go host (contracts/tvm) knows the module by its minified import names,
// which change with every release of the package; the hash is what ties the
// two together, so a mismatch is an error and nothing is written.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const outDir = resolve(process.argv[2] ?? join(here, '..', '..', 'build', 'tvm'));
const require = createRequire(import.meta.url);
const sandbox = dirname(require.resolve('@ton/sandbox'));

const artefacts = [
  {
    name: 'emulator.wasm',
    bytes: () => Buffer.from(require(join(sandbox, 'executor', 'emulator-emscripten.wasm.js')).EmulatorEmscriptenWasm, 'base64'),
    sha256: '0c17fcac030b6871e96cc34d002223e5fb839af00c5b96cc461fbf9e71b0e75a',
  },
  {
    name: 'config.boc',
    bytes: () => Buffer.from(require(join(sandbox, 'config', 'slimConfig.js')).slimConfig, 'base64'),
    sha256: '2efd6c8dfeaf42f9d69a5ea8ad2780a6ea469b800cbc02c9cdc1d1e87c28bc58',
  },
];

// Refuses a file that differs from its pin.
function check(a) {
  const bytes = a.bytes();
  const actual = createHash('sha256').update(bytes).digest('hex');
  if (actual !== a.sha256) {
    throw new Error(`${a.name} from @ton/sandbox differs (expected sha256 ${a.sha256}, actual ${actual}): install the locked packages with npm ci`);
  }
  return bytes;
}

try {
  const checked = artefacts.map((a) => ({ ...a, data: check(a) }));
  mkdirSync(outDir, { recursive: true });
  for (const a of checked) {
    const to = join(outDir, a.name);
    let have;
    try {
      have = readFileSync(to);
    } catch {
      have = undefined;
    }
    if (have?.equals(a.data)) continue;
    const tmp = `${to}.${process.pid}.tmp`;
    writeFileSync(tmp, a.data);
    renameSync(tmp, to);
    console.log(`wrote ${to} (${a.data.length} bytes)`);
  }
} catch (e) {
  console.error(`extract-tvm: ${e.message}`);
  process.exit(1);
}
