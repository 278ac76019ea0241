// Reading what was pasted, asking the verifier, and verifying signatures. No
// function here touches the document.

const profile = "tag:ietf.org,2026:rats/ear#04";

const live = "urn:cocoon:evidence:1";
const recorded = "urn:cocoon:evidence:foreign:1";

export class InputError extends Error {}

const bytes = (b64url) => Uint8Array.from(atob(b64url.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const decode = (part, what) => {
  if (!/^[A-Za-z0-9_-]+$/.test(part)) throw new InputError(`the token's ${what} is not base64url`);
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes(part)));
  } catch {
    throw new InputError(`the token's ${what} is not JSON`);
  }
};
const hex = (buf) => Array.from(new Uint8Array(buf), (b) => b.toString(16).padStart(2, "0")).join("");
const isObject = (v) => typeof v === "object" && v !== null && !Array.isArray(v);

// read returns {kind: "verdict" | "result" | "evidence", …} of a text.
export function read(text) {
  text = text.trim();
  if (text === "") throw new InputError("there is nothing to show: paste a verdict, a result or evidence");
  if (text.split(".").length === 3 && !text.startsWith("{")) return verdict(text);
  let doc;
  try {
    doc = JSON.parse(text);
  } catch {
    throw new InputError("this is neither a verdict (three parts with dots between) nor JSON");
  }
  if (!isObject(doc)) throw new InputError("this JSON is not an object");
  if (typeof doc.ear === "string" && doc.ear !== "") return verdict(doc.ear.trim(), doc.checks);
  if (isObject(doc.result) && isObject(doc.result.submods)) doc = doc.result;
  if (isObject(doc.submods) && doc.eat_profile === undefined) return { kind: "result", result: result(doc) };
  const gpus = Array.isArray(doc.gpus) && doc.gpus.length > 0;
  if (typeof doc.profile === "string" && (isObject(doc.cpu) || gpus)) return { kind: "evidence", text, doc, foreign: doc.profile === recorded };
  throw new InputError("this JSON is neither a result of an appraisal nor evidence");
}

// verdict reads a token, and takes the document of its checks (base64) along.
function verdict(token, checks) {
  const parts = token.split(".");
  const [header, claims] = [decode(parts[0], "header"), decode(parts[1], "claims")];
  if (!isObject(claims) || claims.eat_profile !== profile) throw new InputError(`the token is no verdict of profile ${profile}`);
  if (!isObject(claims.submods)) throw new InputError("the verdict has no submodules");
  return { kind: "verdict", token, header, claims, checks: typeof checks === "string" ? checks : "", parts: submods(claims.submods, "ear_status", "ear_trustworthiness_vector", () => []) };
}

// openChecks puts the checks that go with a verdict into its parts, and returns a
// check of the document: the token has its SHA-256. A token alone has none of
// them; this verifier has them if the verdict is its own and in force.
export async function openChecks(v) {
  const want = String(v.claims.cocoon_checks_sha256);
  const check = { id: "verdict.checks", expected: want, actual: "", reason: "", remedy: "" };
  const fail = (actual, reason) => ({ ...check, status: "fail", actual, reason, remedy: "get the verdict again" });
  if (v.checks === "") v.checks = await kept(v);
  if (v.checks === "") return { ...check, status: "skip", reason: "the token has the hash of its checks, not the checks", remedy: "paste the verifier's whole answer" };
  if (!globalThis.crypto?.subtle) return { ...check, status: "skip", reason: "this browser hashes on https or localhost only", remedy: "open the page over https, or use: cocoon verdict show" };
  let lists;
  try {
    const raw = bytes(v.checks);
    const got = hex(await crypto.subtle.digest("SHA-256", raw));
    if (got !== want) return fail(got, "the checks are not those of this verdict");
    lists = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(raw));
  } catch {
    return fail("a document that cannot be read", "the checks are damaged");
  }
  const good = (name) => isObject(lists) && Object.hasOwn(lists, name) && Array.isArray(lists[name]) && lists[name].length > 0 && lists[name].every(isObject);
  if (!v.parts.every((p) => good(p.name)) || Object.keys(lists).length !== v.parts.length) return fail("other parts", "checks and token do not speak of the same parts");
  for (const p of v.parts) p.checks = lists[p.name];
  return { ...check, status: "pass", actual: want };
}

// kept asks this verifier for the checks of a verdict (docs/verifier-api.md,
// GetVerdict); "" where it has none.
async function kept(v) {
  try {
    const answer = await fetch("/cocoon.verifier.v1.VerifierService/GetVerdict", {
      method: "POST", headers: { "Content-Type": "application/json", "Connect-Protocol-Version": "1" }, body: JSON.stringify({ evidenceSha256: String(v.claims.jti) }),
    });
    const doc = await answer.json();
    return answer.ok && doc.ear === v.token && typeof doc.checks === "string" ? doc.checks : "";
  } catch {
    return "";
  }
}

// result takes what the command line writes and what the API answers: names
// with underscores, or in camel case and without what is empty.
export function result(r) {
  const pick = (a, b) => r[a] ?? r[b];
  const claims = r.claims ?? {};
  return {
    accepted: r.accepted === true && r.foreign !== true, foreign: r.foreign === true, development: r.development === true,
    testRoots: Array.isArray(pick("test_roots", "testRoots")) ? pick("test_roots", "testRoots").map(String) : [],
    trustClass: pick("trust_class", "trustClass") ?? "", notAfter: pick("not_after", "notAfter") ?? "",
    evidence: pick("evidence_sha256", "evidenceSha256") ?? "", policy: pick("policy_sha256", "policySha256") ?? "",
    manifest: r.manifest, model: claims.model?.name ?? claims.modelName ?? "", time: r.time ?? "",
    measurements: isObject(r.measurements) ? Object.entries(r.measurements).sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true })) : [],
    parts: submods(r.submods, "status", "trustworthiness_vector", (s) => s.checks)
      .map((p) => (r.foreign === true && p.status === "affirming" ? { ...p, status: "warning" } : p)), // whatever it says of itself
  };
}

export const failed = (parts) => parts.flatMap((p) => p.checks).filter((c) => c.status !== "pass" && c.status !== "skip");

function submods(all, status, vector, checks) {
  const rank = (n) => ["cpu0", "gpu", "image", "config", "model"].findIndex((p) => n.startsWith(p));
  return Object.entries(all).map(([name, s]) => {
    const list = checks(s ?? {});
    if (!isObject(s) || !Array.isArray(list)) throw new InputError(`part ${name} has no checks`);
    return { name, status: String(s[status] ?? "none"), vector: s[vector] ?? s.trustworthinessVector ?? {}, checks: list };
  }).sort((a, b) => rank(a.name) - rank(b.name) || a.name.localeCompare(b.name, "en", { numeric: true }));
}

let table;

const reference = (id) => {
  if (Object.hasOwn(table, id)) return table[id];
  for (let n = id.lastIndexOf("."); n > 0; n = id.lastIndexOf(".", n - 1)) {
    if (Object.hasOwn(table, id.slice(0, n + 1))) return table[id.slice(0, n + 1)];
  }
  return {};
};

// cite writes into the checks of a verdict what they follow, which their IDs
// say: this verifier has the table. Without it they are shown as they are.
export async function cite(parts) {
  try {
    table ??= await (await fetch("/checks.json")).json();
  } catch {
    return;
  }
  for (const c of parts.flatMap((p) => p.checks)) ({ document: c.document, section: c.section } = reference(String(c.id)));
}

// appraise sends evidence to this verifier (docs/verifier-api.md, Appraise). What
// was recorded, or is to be looked at as if, is sent as foreign, and so is what
// turns out to answer no challenge: the result then has as own what failed of it
// as evidence of ours.
export async function appraise(v, foreign, at) {
  if (v.foreign) return { kind: "result", result: await askForeign(v.text, at) };
  if (foreign) return { kind: "result", result: await askForeign(unbound(v.doc), at) };
  const doc = await ask({}, v.text);
  if (doc.ear) return verdict(doc.ear, doc.checks);
  const own = result(doc.result);
  const bad = failed(own.parts);
  if (!bad.some((c) => c.id === "nonce.challenge") || v.doc.cpu?.type === "tpm") return { kind: "result", result: own }; // a TPM alone has no TCB
  return { kind: "result", result: { ...await askForeign(unbound(v.doc), at), own: bad } };
}

// unbound leaves of evidence what a foreign machine's has.
function unbound(doc) {
  if (doc.profile !== live) throw new InputError(`evidence of profile ${doc.profile} cannot be looked at as recorded`);
  return JSON.stringify({ profile: recorded, cpu: doc.cpu, gpus: doc.gpus?.length ? doc.gpus : undefined, collateral: doc.collateral });
}

const askForeign = async (text, at) => result((await ask(at ? { foreign: true, at } : { foreign: true }, text)).result);

async function ask(request, text) {
  const raw = new TextEncoder().encode(text);
  let bin = "";
  for (let i = 0; i < raw.length; i += 0x8000) bin += String.fromCharCode(...raw.subarray(i, i + 0x8000));
  const answer = await fetch("/cocoon.verifier.v1.VerifierService/Appraise", {
    method: "POST", headers: { "Content-Type": "application/json", "Connect-Protocol-Version": "1" }, body: JSON.stringify({ ...request, evidence: btoa(bin) }),
  });
  const doc = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(`the verifier decided nothing (HTTP ${answer.status}): ${doc.message ?? "no reason given"}`);
  return doc;
}

// pinned reads keys that the user trusts; null without any.
export function pinned(text) {
  text = text.trim();
  if (text === "") return null;
  if (text.startsWith("{")) {
    try {
      return fromSet(JSON.parse(text));
    } catch {
      throw new InputError("the key set is not JSON");
    }
  }
  return text.split(/\s+/).map((k) => {
    if (!/^[0-9a-fA-F]{64}$/.test(k)) throw new InputError(`the key ${k.slice(0, 20)} is not 32 bytes of hex`);
    return Uint8Array.from(k.match(/../g), (b) => parseInt(b, 16));
  });
}

const fromSet = (set) => (Array.isArray(set?.keys) ? set.keys : []).filter((k) => k.kty === "OKP" && k.crv === "Ed25519" && typeof k.x === "string").map((k) => bytes(k.x));

// served fetches this verifier's own keys.
async function served() {
  const answer = await fetch("/.well-known/jwks.json");
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return fromSet(await answer.json());
}

// verify returns a check of the token's signature: JWS with EdDSA (RFC 8037,
// section 3.1), under the key whose SHA-256 is the token's key id.
export async function verify(v, keys) {
  const check = { id: "verdict.signature", expected: `a signature of key ${v.header.kid}`, actual: "", reason: "", remedy: "" };
  const skip = (reason, remedy) => ({ ...check, status: "skip", reason, remedy });
  const fail = (actual, reason, remedy) => ({ ...check, status: "fail", actual, reason, remedy });
  if (v.header.alg !== "EdDSA" || v.header.typ !== "eat+jwt" || Object.keys(v.header).length !== 3) {
    return fail(`alg ${v.header.alg}, typ ${v.header.typ}`, "the header is not that of a verdict", "get the verdict again");
  }
  const whose = keys ? "a key of yours" : "this verifier's key";
  try {
    keys ??= await served();
  } catch (e) {
    return skip(`this verifier's keys cannot be had: ${e.message}`, "open the page from a verifier, or give keys of your own");
  }
  if (!globalThis.crypto?.subtle) return skip("this browser verifies signatures on https or localhost only", "open the page over https, or use: cocoon verdict verify");
  try {
    for (const raw of keys) {
      if (hex(await crypto.subtle.digest("SHA-256", raw)) !== v.header.kid) continue;
      let key;
      try {
        key = await crypto.subtle.importKey("raw", raw, { name: "Ed25519" }, false, ["verify"]);
      } catch {
        return skip("this browser does not know Ed25519", "use a newer browser, or: cocoon verdict verify");
      }
      const [h, p, s] = v.token.split(".");
      const good = await crypto.subtle.verify({ name: "Ed25519" }, key, bytes(s), new TextEncoder().encode(`${h}.${p}`));
      return good ? { ...check, status: "pass", actual: `${whose}, ${v.header.kid}` } : fail("another signature", "the token was changed after it was signed", "get the verdict again");
    }
  } catch {
    return fail("a signature that cannot be read", "the token is damaged", "get the verdict again");
  }
  return fail(`key ${v.header.kid}`, keys.length ? "none of the keys signed it" : "there are no keys to verify with", "give the key of the verifier that signed it");
}

// dates returns a check of a verdict's dates.
export function dates(claims, now) {
  const iso = (s) => (Number.isSafeInteger(s) && Math.abs(s) < 8e12 ? new Date(s * 1000).toISOString().replace(".000", "") : String(s));
  const check = { id: "verdict.dates", expected: `${iso(now)} between issue and expiry`, actual: `${iso(claims.iat)} to ${iso(claims.exp)}`, reason: "", remedy: "" };
  if (!Number.isSafeInteger(claims.iat) || !Number.isSafeInteger(claims.exp)) return { ...check, status: "fail", reason: "the verdict has no dates", remedy: "get the verdict again" };
  if (claims.exp <= now) return { ...check, status: "fail", reason: "the verdict has expired", remedy: "ask for a new one" };
  if (claims.iat > now + 60) return { ...check, status: "fail", reason: "the verdict is from the future", remedy: "check the clocks" };
  return { ...check, status: "pass" };
}
