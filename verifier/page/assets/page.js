// The page: input, and the chain of trust as a tree. Text from outside only
// ever becomes text nodes.

import { InputError, appraise, cite, dates, failed, openChecks, pinned, read, verify } from "./read.js";

const $ = (id) => document.getElementById(id);
const outcome = $("outcome");

function el(tag, attrs = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, v);
  e.append(...children.filter((c) => c !== ""));
  return e;
}

const names = { cpu0: "CPU: hardware, platform, quote", image: "Image: firmware, kernel, root", config: "Config: what the guest was told", model: "Model: which weights", verdict: "Verdict: signature and dates", own: "As evidence of ours: refused" };
const title = (n) => names[n] ?? (/^gpu\d+$/.test(n) ? `GPU ${n.slice(3)}` : n);
const tone = { pass: "pass", fail: "fail", skip: "", affirming: "pass", warning: "warn", contraindicated: "fail", none: "" };
const badge = (s) => el("span", { class: `badge ${tone[s] ?? "fail"}` }, s);

const details = (dl, term, text, cls) => { if (text) dl.append(el("dt", {}, term), el("dd", { class: cls ?? "" }, String(text))); };

function checkNode(c) {
  const failed = c.status !== "pass" && c.status !== "skip";
  const dl = el("dl", { class: "detail" });
  details(dl, "expected", c.expected);
  details(dl, "actual", c.actual);
  details(dl, "reason", c.reason, "prose");
  details(dl, "remedy", c.remedy, "prose");
  if (!dl.childElementCount) details(dl, "found", "as it should be", "prose");
  if (c.document) details(dl, "see", c.section ? `${c.document}: ${c.section}` : c.document, "prose");
  const d = el("details", { class: "check" }, el("summary", {}, badge(String(c.status)), el("span", { class: "id" }, String(c.id))), dl);
  d.open = failed;
  return el("li", {}, d);
}

function partNode(p) {
  const bad = failed([p]).length;
  const d = el("details", { class: "part" },
    el("summary", {}, badge(p.status), el("span", { class: "id" }, title(p.name)), el("span", { class: "count" }, bad ? `${bad} of ${p.checks.length} failed` : p.checks.length ? `${p.checks.length} checks` : "checks not at hand")),
    el("ul", {}, ...p.checks.map(checkNode)));
  d.open = bad > 0 || p.name === "verdict";
  return el("li", {}, d);
}

// render shows a headline, facts and the tree.
function render(kind, head, lines, facts, parts) {
  const dl = el("dl", { class: "facts" });
  for (const [term, text, mono] of facts) details(dl, term, text, mono ? "mono" : "");
  const tree = el("ul", { class: "tree" }, ...parts.map(partNode));
  const all = (open) => () => tree.querySelectorAll("details").forEach((d) => { d.open = open; });
  const expand = el("button", { type: "button", id: "expand" }, "Open all");
  const collapse = el("button", { type: "button", id: "collapse" }, "Close all");
  expand.addEventListener("click", all(true));
  collapse.addEventListener("click", all(false));
  outcome.replaceChildren(
    el("div", { class: `verdict ${kind}`, id: "verdict" }, el("h2", {}, head), ...lines.map((l) => el("p", {}, l))),
    el("section", { class: "card", "aria-labelledby": "facts-title" }, el("h2", { id: "facts-title" }, "What it is about"), dl),
    el("section", { class: "card", "aria-labelledby": "tree-title" }, el("h2", { id: "tree-title" }, "Chain of trust"), tree, el("div", { class: "row" }, expand, collapse)));
  outcome.focus();
}

function complain(e) {
  const known = e instanceof InputError;
  outcome.replaceChildren(el("div", { class: "verdict fail", id: "verdict" }, el("h2", {}, known ? "Cannot be read" : "No answer"), el("p", {}, e.message)));
  outcome.focus();
}

const failures = (parts) => failed(parts).length;
const count = (n) => `${n} ${n === 1 ? "check" : "checks"} failed`;
const development = (roots) => roots?.length ? `The verifier trusts test roots (${roots.join(", ")}): this shows nothing of hardware.` : "Development class: it shows which image booted, not confidentiality.";

async function showVerdict(v) {
  const c = v.claims;
  const own = pinned($("keys").value);
  const checks = [await verify(v, own), dates(c, Math.floor(Date.now() / 1000)), await openChecks(v)];
  await cite(v.parts);
  const bad = failures(v.parts) + checks.filter((x) => x.status === "fail").length;
  const refused = bad > 0 || v.parts.length === 0 || v.parts.some((p) => p.status !== "affirming" && p.status !== "warning");
  const unverified = checks[0].status === "skip"; // without its checks at hand a verdict is as good
  const lines = [];
  if (checks[0].status === "pass") lines.push(own ? "Signed by a key that you gave." : "Signed by this verifier. Whether you trust it is yours to decide.");
  else lines.push(`${checks[0].reason}. ${checks[0].remedy}.`);
  if (checks[1].status === "fail") lines.push(`${checks[1].reason}: ${checks[1].remedy}.`);
  if (checks[2].status !== "pass") lines.push(`${checks[2].reason}: ${checks[2].remedy}.`);
  if (c.cocoon_development || c.cocoon_test_roots) lines.push(development(c.cocoon_test_roots));
  const warn = v.parts.some((p) => p.status === "warning") || c.cocoon_development;
  const head = refused ? "Not a good verdict" : unverified ? "Not verified" : warn ? "Verified, with a warning" : "Verified";
  const verdict = { name: "verdict", status: refused && checks.some((x) => x.status === "fail") ? "fail" : unverified ? "skip" : "pass", checks };
  render(refused ? "fail" : unverified || warn ? "warn" : "pass", head, lines, [
    ["trust class", c.cocoon_trust_class], ["issued", checks[1].actual], ["verifier", `${c.ear_verifier_id?.developer ?? ""} ${c.ear_verifier_id?.build ?? ""}`], ["key id", v.header.kid, true],
    ["image", `${c.cocoon_manifest?.name ?? ""} version ${c.cocoon_manifest?.version ?? ""}`], ["manifest", c.cocoon_manifest?.sha256, true], ["model", c.cocoon_model?.name],
    ["TLS key", c.cocoon_tls_spki_sha256, true], ["policy", c.cocoon_policy_sha256, true], ["evidence", c.cocoon_evidence_sha256, true]], [verdict, ...v.parts]);
}

function showResult(r) {
  const bad = failures(r.parts);
  const lines = r.foreign
    ? ["Recorded evidence, or that of a machine that is none of ours: nothing binds it to a key, and it answers no challenge. Never accepted, never affirming: no verdict is given on it, and what is shown is its TCB and its registers."]
    : ["A result is not signed: it shows what was found and proves nothing to others."];
  if (r.own) lines.push("It came as evidence of ours and was refused as such, for it answers no challenge of this verifier. A challenge serves one attempt.");
  if (r.development || r.testRoots.length) lines.push(development(r.testRoots));
  const good = bad === 0 && (r.accepted || r.foreign);
  const head = r.foreign ? `Foreign evidence, not accepted${bad ? `: ${count(bad)}` : ""}` : good ? "Accepted" : `Refused: ${count(bad)}`;
  const own = r.own ? [{ name: "own", status: "contraindicated", checks: r.own }] : [];
  render(good ? (r.development || r.foreign ? "warn" : "pass") : "fail", head, lines, [
    ["trust class", r.trustClass], ["image", r.manifest ? `${r.manifest.name} version ${r.manifest.version}` : ""], ["manifest", r.manifest?.sha256, true], ["model", r.model],
    ["as of", r.foreign ? r.time : ""], ["not after", r.notAfter], ["policy", r.policy, true], ["evidence", r.evidence, true],
    ...(r.foreign ? r.measurements.map(([name, value]) => [name, value, true]) : [])], [...r.parts, ...own]);
}

async function show() {
  outcome.setAttribute("aria-busy", "true");
  try {
    let v = read($("text").value);
    if (v.kind === "evidence") v = await appraise(v, $("foreign").checked, $("at").value.trim());
    if (v.kind === "verdict") await showVerdict(v);
    else showResult(v.result);
  } catch (e) {
    complain(e);
  } finally {
    outcome.removeAttribute("aria-busy");
  }
}

const maxFile = 8 << 20;

async function open(file) {
  if (!file) return;
  if (file.size > maxFile) return complain(new InputError(`the file has more than ${maxFile} bytes`));
  $("text").value = await file.text();
  await show();
}

function clear() {
  for (const id of ["text", "file", "at"]) $(id).value = "";
  $("foreign").checked = false; // one bundle's tick is not the next one's
  outcome.replaceChildren();
  $("text").focus();
}

$("show").addEventListener("click", show);
$("clear").addEventListener("click", clear);
$("file").addEventListener("change", (e) => open(e.target.files[0]));
$("text").addEventListener("keydown", (e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) show(); });

// dropped takes one file or a text, anywhere on the page: beside the field a
// browser would leave the page for the file.
function dropped(data) {
  if (data.files.length > 1) return complain(new InputError("more than one file: drop one"));
  if (data.files.length === 1) return open(data.files[0]);
  const text = data.getData("text/plain");
  if (text) { $("text").value = text; show(); }
}

for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (e) => {
    e.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    if (type === "drop") dropped(e.dataTransfer);
  });
}
