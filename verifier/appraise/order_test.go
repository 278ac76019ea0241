package appraise_test

import (
	"slices"
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/snp"
	"cocoon/verifier/testfleet"
	"cocoon/verifier/tpmtest"
)

// TestEveryFailureIsReturnedInOrder spoils evidence in every stage of an
// appraisal at once. All of it is returned, in the order parse, CPU evidence,
// claims, nonce, GPU evidence, event log, reference values, config and model,
// policy, and each failure says what was expected and found, why and what to
// do, and which document it follows.
func TestEveryFailureIsReturnedInOrder(t *testing.T) {
	f, err := testfleet.New("order")
	if err != nil {
		t.Fatal(err)
	}
	env, err := f.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	p := f.Policy()
	manifests, err := appraise.OpenManifests(p, []manifest.Published{{Envelope: env}})
	if err != nil {
		t.Fatal(err)
	}
	devices := gpus.New(gpus.Options{Roots: f.GPUPKI().Roots(), RIMRoots: f.GPUPKI().RIMRoots()})
	cpus := tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: f.TDXPKI().Roots()}, SNP: snp.Options{Roots: f.SNPPKI().Roots()}})
	run := func(kind string, p *policy.Policy, ms []*manifest.Verified, challenge digest.SHA256, change func(*evidence.Evidence)) *result.Result {
		t.Helper()
		m, err := f.Machine(kind, tpmtest.Now)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := m.Evidence(digest.Sum256([]byte("challenge")))
		if err != nil {
			t.Fatal(err)
		}
		ev, err := evidence.Parse(doc)
		if err != nil {
			t.Fatal(err)
		}
		change(ev)
		return resulttest.Complete(t, appraise.Appraise(ev, &appraise.Options{Policy: p, Manifests: ms, Now: tpmtest.Now.Add(time.Minute), Challenges: []digest.SHA256{challenge}, CPUs: cpus, GPUs: devices}))
	}
	right := digest.Sum256([]byte("challenge"))
	for _, kind := range testfleet.Kinds() {
		if r := run(kind, p, manifests, right, func(*evidence.Evidence) {}); !r.Accepted || !slices.IsSorted(stagesOf(r.Checks())) {
			t.Fatalf("%s, unchanged: %v, stages %v", kind, r.Err(), stagesOf(r.Checks()))
		}
	}
	strict := *p
	strict.TrustClasses = []string{policy.ClassTDX}
	strict.Rules = []rules.Rule{{ID: "never", Expression: "false", Reason: "nothing is good enough", Remedy: "give up"}}
	spoilt := func(ev *evidence.Evidence) {
		ev.Profile = "urn:another"
		ev.CPU.Quote[200] ^= 1
		ev.Claims.ReceiptKey[0] ^= 1
		ev.Config.NetworkID = 77
		ev.Config.Model.Name = "another"
	}
	want := map[string][]string{
		testfleet.TDX: {"evidence.profile", "tdx.quote.signature", "tdx.report_data", "claims.config_sha256", "nonce.challenge", "tdx.event_log.format", "config.network_id", "model.name", "policy.trust_class", "policy.rule.never"},
		testfleet.GPU: {"evidence.profile", "snp.signature", "snp.report_data", "claims.config_sha256", "claims.model", "nonce.challenge", "claims.gpu_evidence_sha256", "gpu.nonce",
			"snp.event_log", "image.launch_digest", "config.network_id", "model.name", "policy.trust_class", "policy.rule.never"},
	}
	for kind, ids := range want {
		r := run(kind, &strict, manifests, digest.Sum256([]byte("another challenge")), func(ev *evidence.Evidence) {
			spoilt(ev)
			ev.CPU.EventLog = []byte{1}
			if kind == testfleet.GPU {
				ev.GPUs[0].Report[8] ^= 1 // of the nonce that was asked with
				ev.CPU.Quote[0x90] ^= 1   // of the launch digest
			}
		})
		failed := r.Failed()
		at := 0
		for _, id := range ids { // in this order, others between them
			i := slices.IndexFunc(failed[at:], func(c result.Check) bool { return c.ID == id })
			if i < 0 {
				var got []string
				for _, c := range failed {
					got = append(got, c.ID)
				}
				t.Fatalf("%s: %s is missing, or too early, in %v", kind, id, got)
			}
			at += i + 1
		}
		if !slices.IsSorted(stagesOf(failed)) {
			t.Errorf("%s: stages %v", kind, stagesOf(failed))
		}
		for name, s := range r.Submods {
			if !slices.IsSorted(stagesOf(s.Checks)) {
				t.Errorf("%s: %s is not in order", kind, name)
			}
		}
	}
}

func stagesOf(checks []result.Check) []result.Stage {
	out := make([]result.Stage, len(checks))
	for i, c := range checks {
		out[i] = result.StageOf(c.ID)
	}
	return out
}

// TestResultsOutliveTheirAppraisal: what one writes to is used by others after it.
func TestResultsOutliveTheirAppraisal(t *testing.T) {
	w := tpmtest.NewWorld(t)
	challenge := d("challenge")
	o := options(t, w)
	o.Challenges, o.TLSSPKI = []digest.SHA256{challenge}, &w.TLSSPKI
	ev := w.Evidence(t, challenge)
	first := resulttest.Complete(t, appraise.Appraise(ev, o))
	before := slices.Clone(first.Checks())
	other := *o
	other.Policy = nil
	for range 8 {
		if r := resulttest.Complete(t, appraise.Appraise(ev, &other)); r.Accepted || len(r.Checks()) >= len(before) {
			t.Fatalf("without a policy: accepted %v, %d checks", r.Accepted, len(r.Checks()))
		}
		if r := resulttest.Complete(t, appraise.Appraise(ev, o)); !r.Accepted || !slices.Equal(r.Checks(), before) {
			t.Fatalf("the same evidence again: %v", r.Err())
		}
	}
	if !slices.Equal(first.Checks(), before) {
		t.Error("a result changed after its appraisal")
	}
}
