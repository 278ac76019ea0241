package tee_test

import (
	"crypto/sha512"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
	"cocoon/verifier/tpmtest"
)

// world is a TD that does not exist, with collateral and a policy.
type world struct {
	*tpmtest.World
	pki *tdxtest.PKI
	c   tdxtest.Case
	log []tdxtest.CCEvent
	raw *collateral.Raw
}

func newWorld(t testing.TB) *world {
	t.Helper()
	pki, err := tdxtest.New("tee")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{World: tpmtest.NewWorld(t), pki: pki, c: tdxtest.StatusTDX(tcb.UpToDate), log: tdxtest.DirectBoot()}
	w.Policy.Environment, w.Policy.TrustClasses = policy.Development, []string{policy.ClassTest}
	w.Policy.TPM, w.Policy.DCAP = nil, &dcappolicy.Policy{TDX: &dcappolicy.TDX{}}
	return w
}

// evidence returns evidence whose quote is over what the TD measured.
func (w *world) evidence(t testing.TB) *evidence.Evidence {
	t.Helper()
	ev := w.Evidence(t)
	ev.CPU = evidence.CPU{Type: evidence.TypeTDX, CertChain: [][]byte{}, RuntimeEvents: ev.CPU.RuntimeEvents}
	w.requote(t, ev)
	return ev
}

func (w *world) requote(t testing.TB, ev *evidence.Evidence) {
	t.Helper()
	ev.CPU.EventLog, w.c.Quote.TD.RTMR = tdxtest.CCEL(w.log)
	r3 := &w.c.Quote.TD.RTMR[3]
	for _, e := range ev.CPU.RuntimeEvents {
		b, err := e.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		d := sha512.Sum384(b)
		*r3 = sha512.Sum384(append(r3[:], d[:]...))
	}
	var err error
	if w.c.Quote.TD.ReportData, err = ev.Claims.ReportData(); err != nil {
		t.Fatal(err)
	}
	if ev.CPU.Quote, w.raw, err = w.pki.Make(&w.c); err != nil {
		t.Fatal(err)
	}
}

func (w *world) appraise(t testing.TB, ev *evidence.Evidence) *result.Result {
	t.Helper()
	o := tee.Options{DCAP: dcap.Options{Roots: w.pki.Roots()}, Collateral: func([]byte, time.Time) (*collateral.Set, error) {
		return collateral.Open(w.raw, w.pki.Roots())
	}}
	return resulttest.Complete(t, appraise.Appraise(ev, &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tdxtest.Now, CPUs: tee.CPUs(o)}))
}

func failed(r *result.Result) []string {
	var ids []string
	for _, c := range r.Failed() {
		ids = append(ids, c.ID)
	}
	slices.Sort(ids)
	return ids
}

// TestATDIsGoodButForReferenceValues appraises a good TD: all that is missing
// is a manifest that speaks of TDX.
func TestATDIsGoodButForReferenceValues(t *testing.T) {
	w := newWorld(t)
	r := w.appraise(t, w.evidence(t))
	if diff := cmp.Diff([]string{"manifest.tdx"}, failed(r)); diff != "" || r.Accepted {
		t.Errorf("accepted %v, failed checks (-want +got):\n%s", r.Accepted, diff)
	}
	if r.TrustClass != policy.ClassTest || !r.Development || len(r.Measurements["rtmr3"]) != 96 {
		t.Errorf("class %q, development %v, measurements %v", r.TrustClass, r.Development, r.Measurements)
	}
	passed := map[string]bool{}
	for _, c := range r.Submods[result.SubCPU].Checks {
		if c.Status == result.Skip && c.ID != "nonce.challenge" && c.ID != "tls.spki" {
			t.Errorf("%s was skipped: %s", c.ID, c.Reason)
		}
		passed[c.ID] = c.Status == result.Pass
	}
	for _, id := range []string{"tdx.quote.signature", "tdx.report_data", "tdx.event_log.format", "tdx.event_log.structure", "tdx.event_log.replay", "tdx.event_log.runtime", "tdx.runtime_events"} {
		if !passed[id] {
			t.Errorf("%s did not pass", id)
		}
	}
	if fault.ExitCode(r.Err()) != fault.ExitPolicy {
		t.Errorf("exit %d, want %d: only the manifest is missing", fault.ExitCode(r.Err()), fault.ExitPolicy)
	}
	if want := tdxtest.Now.Add(time.Hour); !r.NotAfter.Equal(want) {
		t.Errorf("good until %s, want %s", r.NotAfter, want)
	}
}

// TestTDsAreRefused changes evidence, quote, log or policy.
func TestTDsAreRefused(t *testing.T) {
	after := func(i int, e tdxtest.CCEvent) func(*testing.T, *world) {
		return func(_ *testing.T, w *world) { w.log = slices.Insert(w.log, i, e) }
	}
	for name, c := range map[string]struct {
		world    func(*testing.T, *world)                     // before the quote
		evidence func(*testing.T, *world, *evidence.Evidence) // after it
		want     []string
		exit     int
	}{
		"a quote with a changed byte": {evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) { ev.CPU.Quote[200] ^= 1 }, want: []string{"tdx.quote.signature"}, exit: fault.ExitRefused},
		"a quote that is none":        {evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) { ev.CPU.Quote = []byte{4} }, want: []string{"tdx.quote.parse"}, exit: fault.ExitParse},
		"other claims":                {evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) { ev.Claims.ReceiptKey[0] ^= 1 }, want: []string{"tdx.report_data"}, exit: fault.ExitRefused},
		"no event log":                {evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) { ev.CPU.EventLog = nil }, want: []string{"tdx.event_log.format"}, exit: fault.ExitRefused},
		"an event log of another boot": {evidence: func(_ *testing.T, w *world, ev *evidence.Evidence) {
			w.log[5].Of = "another cmdline"
			ev.CPU.EventLog, _ = tdxtest.CCEL(w.log)
		}, want: []string{"tdx.event_log.replay"}, exit: fault.ExitRefused},
		"a second separator":         {world: after(5, tdxtest.CCEvent{Register: 2, Type: eventlog.Separator, Of: "\x00\x00\x00\x00", Data: "\x00\x00\x00\x00"}), want: []string{"tdx.event_log.structure"}, exit: fault.ExitRefused},
		"Secure Boot set afterwards": {world: after(4, tdxtest.CCEvent{Register: 1, Type: eventlog.EFIVariableDriverConf, Of: "SecureBoot", Data: ""}), want: []string{"tdx.event_log.structure"}, exit: fault.ExitRefused},
		"firmware events in RTMR3":   {world: after(5, tdxtest.CCEvent{Register: 4, Type: eventlog.EventTag, Of: "config", Data: ""}), want: []string{"tdx.event_log.format", "tdx.event_log.runtime"}, exit: fault.ExitRefused},
		"runtime events left out": {evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) { ev.CPU.RuntimeEvents = ev.CPU.RuntimeEvents[:2] },
			want: []string{"tdx.event_log.runtime", "tdx.runtime_events"}, exit: fault.ExitRefused},
		"runtime events of another config": {evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
			ev.CPU.RuntimeEvents[0].Value = digest.Sum256([]byte("x")).String()
			w.requote(t, ev)
		}, want: []string{"tdx.runtime_events"}, exit: fault.ExitRefused},
		"a TD that can be debugged": {world: func(_ *testing.T, w *world) { w.c.Quote.TD.Attributes[0] = 1 }, want: []string{"policy.tdx.debug"}, exit: fault.ExitPolicy},
		"an old platform": {world: func(_ *testing.T, w *world) {
			td := w.c.Quote
			w.c = tdxtest.StatusTDX(tcb.OutOfDate)
			w.c.Quote.TD.RTMR = td.TD.RTMR
		}, want: []string{"tdx.tcb.out_of_date"}, exit: fault.ExitPolicy},
		"a policy without TDX":       {world: func(_ *testing.T, w *world) { w.Policy.DCAP = nil }, want: []string{"policy.tdx"}, exit: fault.ExitPolicy},
		"a class that is not wanted": {world: func(_ *testing.T, w *world) { w.Policy.TrustClasses = []string{policy.ClassTDX} }, want: []string{"policy.trust_class"}, exit: fault.ExitPolicy},
		"an old evaluation":          {world: func(_ *testing.T, w *world) { w.Manifest.TCB.TDXEvaluation = 999 }, want: []string{"manifest.tcb_floor"}, exit: fault.ExitPolicy},
		"an Azure type": {evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) { ev.CPU.Type = evidence.TypeAzTDX },
			want: []string{"azure.hcl.parse"}, exit: fault.ExitParse},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.world != nil {
				c.world(t, w)
			}
			ev := w.evidence(t)
			if c.evidence != nil {
				c.evidence(t, w, ev)
			}
			r := w.appraise(t, ev)
			got := failed(r)
			got = slices.DeleteFunc(got, func(id string) bool { return strings.HasPrefix(id, "manifest.") && id != "manifest.tcb_floor" })
			if diff := cmp.Diff(c.want, got); diff != "" || r.Accepted {
				t.Errorf("accepted %v, failed checks (-want +got):\n%s", r.Accepted, diff)
			}
			if code := fault.ExitCode(r.Err()); code != c.exit {
				t.Errorf("exit %d, want %d", code, c.exit)
			}
		})
	}
}

// TestCollateralOfTheEvidenceIsVerified gives an appraiser no collateral of
// its own.
func TestCollateralOfTheEvidenceIsVerified(t *testing.T) {
	w := newWorld(t)
	ev := w.evidence(t)
	doc, err := w.raw.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	run := func() *result.Result {
		return resulttest.Complete(t, appraise.Appraise(ev, &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tdxtest.Now,
			CPUs: tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: w.pki.Roots()}})}))
	}
	ev.Collateral = doc
	if diff := cmp.Diff([]string{"manifest.tdx"}, failed(run())); diff != "" {
		t.Errorf("failed checks (-want +got):\n%s", diff)
	}
	ev.Collateral = json.RawMessage(strings.Replace(string(doc), "UpToDate", "OutOfDate", 1))
	if got := failed(run()); !slices.ContainsFunc(got, func(id string) bool { return strings.HasPrefix(id, "dcap.") }) {
		t.Errorf("changed collateral is accepted: %v", got)
	}
	ev.Collateral = nil
	if got := failed(run()); !slices.Contains(got, "dcap.collateral.missing") {
		t.Errorf("no collateral: %v", got)
	}
}

func sorted(in []string) []string {
	out := append([]string{}, in...)
	slices.Sort(out)
	return out
}
