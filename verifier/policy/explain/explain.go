// Package explain says in sentences what a policy accepts and refuses, section
// by section, what it leaves out included. In comes a valid policy, out comes
// text; nothing is decided here.
package explain

import (
	"fmt"
	"slices"
	"strings"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/verifier/policy"
)

// Section is one part of the explanation.
type Section struct {
	Title string   `json:"title"`
	Lines []string `json:"lines"` // sentences, without a period at the end
}

// text collects the sentences of a section.
type text struct{ lines []string }

func (t *text) say(format string, args ...any) {
	t.lines = append(t.lines, fmt.Sprintf(format, args...))
}

// choose says one of two things.
func (t *text) choose(cond bool, yes, no string) {
	if cond {
		t.say("%s", yes)
	} else {
		t.say("%s", no)
	}
}

// Policy explains a policy.
func Policy(p *policy.Policy) []Section {
	var out []Section
	for _, s := range []struct {
		title string
		write func(*text, *policy.Policy)
	}{
		{"environment", environment}, {"manifests", manifests}, {"freshness", freshness}, {"tpm", tpm}, {"dcap", dcapSection},
		{"snp", snpSection}, {"nvgpu", nvgpuSection}, {"rules", ruleSection},
	} {
		var t text
		s.write(&t, p)
		out = append(out, Section{s.title, t.lines})
	}
	return out
}

var classText = map[string]string{
	policy.ClassVTPM:  "vtpm: measured boot into a TPM that the machine's owner may have written; no confidentiality",
	policy.ClassTDX:   "tdx: guests under Intel TDX",
	policy.ClassSNP:   "snp: guests under AMD SEV-SNP",
	policy.ClassSGX:   "sgx: enclaves under Intel SGX",
	policy.ClassAzTDX: "az-tdx: Azure guests under Intel TDX; a paravisor of Azure's stands between hardware and guest",
	policy.ClassAzSNP: "az-snp: Azure guests under AMD SEV-SNP; a paravisor of Azure's stands between hardware and guest",
	policy.ClassTest:  "test: machines of whatever kind whose authority is a configured test root; no confidentiality",
}

func environment(t *text, p *policy.Policy) {
	if p.Environment == policy.Production {
		t.say("the policy is marked production: the development classes vtpm and test are refused whatever else it says")
	} else {
		t.say("the policy is marked development: do not trust its verdicts with anything that matters")
	}
	for _, c := range p.TrustClasses {
		t.say("accepts %s", classText[c])
	}
	var refused []string
	for _, c := range []string{policy.ClassTDX, policy.ClassSNP, policy.ClassSGX, policy.ClassAzTDX, policy.ClassAzSNP, policy.ClassVTPM, policy.ClassTest} {
		if !p.Accepts(c) {
			refused = append(refused, c)
		}
	}
	if len(refused) > 0 {
		t.say("refuses every other class: %s", strings.Join(refused, ", "))
	}
	for _, need := range []struct {
		missing bool
		classes []string
		section string
	}{
		{p.DCAP == nil || p.DCAP.TDX == nil, []string{policy.ClassTDX, policy.ClassAzTDX}, "dcap.tdx"},
		{p.DCAP == nil || p.DCAP.SGX == nil, []string{policy.ClassSGX}, "dcap.sgx"},
		{p.SNP == nil, []string{policy.ClassSNP, policy.ClassAzSNP}, "snp"},
	} {
		for _, c := range need.classes {
			if need.missing && p.Accepts(c) {
				t.say("names %s, and refuses it all the same: there is no section %s", c, need.section)
			}
		}
	}
}

func manifests(t *text, p *policy.Policy) {
	m := &p.Manifests
	if r := m.Registry; r != nil {
		t.say("the registry %s on network %d must list manifest and model; what it says may be %s old", r.Address, r.NetworkID, seconds(r.MaxAgeSeconds))
	} else {
		t.say("no ledger is asked: manifests count by hash or signature alone")
	}
	if n := len(m.Hashes); n > 0 {
		t.say("accepts %s: %s", count(n, "manifest by its hash", "manifests by their hashes"), list(m.Hashes))
	}
	if n := len(m.Keys); n > 0 {
		t.say("accepts manifests that at least %d of %s signed: %s", m.Threshold, count(n, "key", "keys"), list(m.Keys))
	}
	if l := m.Log; l != nil {
		t.say("a proof must come with a manifest that it is in %s: %s", logCount(len(l.Keys)), logs(l.Keys))
		if n := len(l.Witnesses); n > 0 || l.Threshold > 0 {
			t.say("the proof's checkpoint must be cosigned by at least %d of %s: %s", l.Threshold, count(n, "witness", "witnesses"), names(l.Witnesses))
		} else {
			t.say("no witness is asked for: the log could show others another history")
		}
	} else {
		t.say("no transparency log is asked for: a manifest need not be public")
	}
	if n := len(m.Revoked); n > 0 {
		t.say("refuses %s whatever else holds: %s", count(n, "manifest", "manifests"), list(m.Revoked))
	} else {
		t.say("revokes no manifest by itself")
	}
	t.say("image, config, engine and model are held against the manifest: nothing outside it is accepted")
}

func logCount(n int) string {
	if n == 1 {
		return "the transparency log"
	}
	return fmt.Sprintf("one of %d transparency logs", n)
}

// logs writes logs with their keys: two of one name are told apart.
func logs(keys []log.Key) string {
	var s []string
	for _, k := range keys {
		s = append(s, k.String())
	}
	return strings.Join(s, ", ")
}

func freshness(t *text, p *policy.Policy) {
	t.choose(p.Freshness.RequireChallenge, "refuses evidence that answers no challenge of the appraiser",
		"offline, accepts evidence of any age that answers no challenge; a verifier service wants its own challenge in any case")
	t.say("a verdict lives at most %s, less where collateral, certificates or the manifest end earlier", seconds(p.Freshness.VerdictSeconds))
}

func tpm(t *text, p *policy.Policy) {
	if p.TPM == nil {
		t.say("absent: quotes of TPMs outside Azure are refused")
		return
	}
	t.say("accepts attestation keys that %s certified", count(len(p.TPM.AKRoots), "authority", "authorities"))
	if n := len(p.TPM.EKRoots); n > 0 {
		t.say("accepts TPMs of %s", count(n, "maker", "makers"))
	}
	if n := len(p.TPM.DevelopmentEKRoots); n > 0 {
		t.say("accepts software TPMs of %s: their owner can forge them", count(n, "authority", "authorities"))
	}
	if len(p.TPM.AllEKRoots()) == 0 {
		t.say("names no maker of TPMs: whose TPM it is, is left to the authority that enrolled it")
	}
}

func ruleSection(t *text, p *policy.Policy) {
	if len(p.Rules) == 0 {
		t.say("none: the site demands nothing beyond the sections above")
		return
	}
	t.say("evidence is refused unless each of these is true; a rule that cannot be evaluated counts as false")
	for _, r := range p.Rules {
		t.say("%s: %s (otherwise: %s)", r.ID, strings.Join(strings.Fields(r.Expression), " "), r.Reason)
	}
}

// allow says what a list allows; an empty one says nothing.
func allow[T fmt.Stringer](t *text, what string, l []T) {
	if len(l) > 0 {
		t.say("accepts only %s: %s", what, list(l))
	}
}

// list writes at most four values of a list.
func list[T fmt.Stringer](l []T) string {
	var s []string
	for i, v := range l {
		if i == 4 {
			s = append(s, fmt.Sprintf("%d more", len(l)-i))
			break
		}
		s = append(s, v.String())
	}
	return strings.Join(s, ", ")
}

// names writes text values.
func names[T ~string](l []T) string {
	var s []string
	for _, v := range l {
		s = append(s, string(v))
	}
	return strings.Join(s, ", ")
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// seconds writes a time in the largest unit that divides it.
func seconds(n int64) string {
	for _, u := range []struct {
		size      int64
		one, many string
	}{{86400, "day", "days"}, {3600, "hour", "hours"}, {60, "minute", "minutes"}} {
		if n >= u.size && n%u.size == 0 {
			return count(int(n/u.size), u.one, u.many)
		}
	}
	return count(int(n), "second", "seconds")
}

// onlyZero reports whether a list of digests accepts none but the zero value.
func onlyZero(l []digest.SHA384) bool {
	return len(l) > 0 && !slices.ContainsFunc(l, func(d digest.SHA384) bool { return d != digest.SHA384{} })
}
