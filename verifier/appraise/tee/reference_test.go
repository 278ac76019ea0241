package tee_test

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/snp"
	"cocoon/measurements/tdvf"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	snppolicy "cocoon/verifier/policy/snp"
	"cocoon/verifier/quote"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	snpverify "cocoon/verifier/snp"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
	"cocoon/verifier/tdxtest"
)

// published gives the world's manifest the reference values of its TD: a
// firmware whose second event depends on the host.
func (w *world) published(t testing.TB) {
	t.Helper()
	options, err := boot.LoadOptions(boot.CmdlineInitrdFirst, w.Boot.Cmdline)
	if err != nil {
		t.Fatal(err)
	}
	w.log[5].Of = string(options)
	register := func(n uint32, names ...string) manifest.Register {
		r := manifest.Register{Events: []manifest.Event{}}
		for _, e := range w.log {
			if e.Register != n {
				continue
			}
			ev := manifest.Event{Name: names[len(r.Events)], Type: e.Type.String(), Digest: digest.Sum384([]byte(e.Of))}
			if ev.Name == "host" {
				ev.Digest, ev.Host = digest.SHA384{}, true
			}
			r.Events = append(r.Events, ev)
		}
		if v, ok := r.Fixed(); ok {
			r.Value = &v
		}
		return r
	}
	w.Manifest.TDX = &manifest.TDX{
		Components: manifest.TDXComponents{KernelAuthenticodeSHA384: digest.Sum384([]byte("kernel")), InitrdSHA384: digest.Sum384([]byte("initrd"))},
		Firmwares: []manifest.TDXFirmware{{Name: "test-tdvf", SHA256: digest.Sum256([]byte("tdvf")), MRTD: []digest.SHA384{digest.SHA384(w.c.Quote.TD.MRTD)},
			RTMR0: register(1, "cfv", "host", "separator"), RTMR1: register(2, manifest.EventKernel, "separator", "exit"), RTMR2: register(3, manifest.EventCmdline, manifest.EventInitrd)}},
	}
}

// TestATDThatRunsThePublishedImageIsAccepted appraises a TD against reference
// values: as published, and with one thing changed.
func TestATDThatRunsThePublishedImageIsAccepted(t *testing.T) {
	other := func(i int) func(*world) { return func(w *world) { w.log[i].Of = "another" } }
	for name, c := range map[string]struct {
		world    func(*world) // after the values were published
		evidence func(*evidence.Evidence)
		want     []string
	}{
		"as published":              {},
		"another table of the host": {world: other(1)},
		"another volume":            {world: other(0), want: []string{"rtmr.0"}},
		"another kernel":            {world: other(3), want: []string{"rtmr.1"}},
		"another command line":      {world: other(5), want: []string{"rtmr.2"}},
		"another initrd":            {world: other(6), want: []string{"rtmr.2"}},
		"one event more": {world: func(w *world) {
			w.log = append(w.log, tdxtest.CCEvent{Register: 3, Type: w.log[6].Type, Of: "more", Data: w.log[6].Data})
		},
			want: []string{"rtmr.2"}},
		"another firmware":       {world: func(w *world) { w.c.Quote.TD.MRTD[0] ^= 1 }, want: []string{"firmware.mrtd"}},
		"a service TD":           {world: func(w *world) { w.c.Quote.TD.MRServiceTD[0] = 1 }, want: []string{"firmware.servicetd"}},
		"a log of another boot":  {evidence: func(ev *evidence.Evidence) { ev.CPU.EventLog = nil }, want: []string{"rtmr.0", "tdx.event_log.format"}},
		"a quote of another key": {evidence: func(ev *evidence.Evidence) { ev.CPU.Quote[240] ^= 1 }, want: []string{"tdx.quote.signature"}},
		"a manifest without TDX": {world: func(w *world) { w.Manifest.TDX = nil }, want: []string{"manifest.tdx"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.c.Quote.Version, w.c.Quote.TD.BodyType = 5, quote.BodyTD15 // MRSERVICETD is in it
			w.published(t)
			if c.world != nil {
				c.world(w)
			}
			ev := w.evidence(t)
			if c.evidence != nil {
				c.evidence(ev)
			}
			r := w.appraise(t, ev)
			if diff := cmp.Diff(c.want, failed(r)); diff != "" || r.Accepted != (len(c.want) == 0) {
				t.Fatalf("accepted %v, failed checks (-want +got):\n%s\n%v", r.Accepted, diff, r.Err())
			}
			if !r.Accepted {
				return
			}
			if r.TrustClass != policy.ClassTest || !r.Development || r.Status() != result.Warning {
				t.Errorf("class %s, development %v, status %s", r.TrustClass, r.Development, r.Status())
			}
			_, key, err := ed25519.GenerateKey(nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := result.SignEAR(r, key, "test"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestThePolicySaysWhichExitARegisterHas(t *testing.T) {
	w := newWorld(t)
	w.published(t)
	w.log[3].Of = "another kernel"
	r := w.appraise(t, w.evidence(t))
	if code := fault.ExitCode(r.Err()); code != fault.ExitPolicy {
		t.Errorf("exit %d, want %d: the quote is genuine", code, fault.ExitPolicy)
	}
	for _, c := range r.Failed() {
		if c.ID == "rtmr.1" && (c.Expected == "" || c.Actual == c.Expected || !strings.Contains(c.Reason, "kernel")) {
			t.Errorf("%+v", c)
		}
	}
}

// TestAServiceTDThatThePolicyNames leaves the decision to the policy's check.
func TestAServiceTDThatThePolicyNames(t *testing.T) {
	w := newWorld(t)
	w.c.Quote.Version, w.c.Quote.TD.BodyType = 5, quote.BodyTD15
	w.published(t)
	w.c.Quote.TD.MRServiceTD[0] = 1
	w.Policy.DCAP = &dcappolicy.Policy{TDX: &dcappolicy.TDX{MRServiceTD: []digest.SHA384{digest.SHA384(w.c.Quote.TD.MRServiceTD)}}}
	if r := w.appraise(t, w.evidence(t)); !r.Accepted {
		t.Errorf("refused: %v", r.Err())
	}
}

// TestAnSNPGuestThatRunsThePublishedImageIsAccepted launches the published
// image with one vCPU and with many, and others.
func TestAnSNPGuestThatRunsThePublishedImageIsAccepted(t *testing.T) {
	pki, err := snptest.New("reference")
	if err != nil {
		t.Fatal(err)
	}
	fw := snp.Firmware{Digest: digest.Sum384([]byte("firmware")), HashGPA: 0x810c00, ResetEIP: 0x80b004, Sections: []tdvf.SEVSection{
		{Type: tdvf.SEVMemory, GPA: 0x800000, Size: 0x9000}, {Type: tdvf.SEVKernelHashes, GPA: 0x810000, Size: 0x1000}}}
	for name, c := range map[string]struct {
		vcpus  int
		model  string
		kernel string
		want   []string
	}{
		"one vCPU":        {1, "EPYC-Milan", "kernel file", nil},
		"64 vCPUs":        {64, "EPYC-Milan", "kernel file", nil},
		"too many vCPUs":  {65, "EPYC-Milan", "kernel file", []string{"image.launch_digest"}},
		"another model":   {1, "EPYC-Turin", "kernel file", []string{"image.launch_digest"}},
		"another kernel":  {1, "EPYC-Milan", "another kernel", []string{"image.launch_digest"}},
		"unhashed kernel": {1, "EPYC-Milan", "", []string{"image.launch_digest"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.Policy.SNP = snppolicy.Default()
			kernel := snp.HashKernel([]byte("kernel file"), []byte("initrd"), w.Boot.Cmdline)
			w.Manifest.TPM = nil // its initrd is another
			w.Manifest.SNP = &manifest.SNP{Components: *kernel, Firmwares: []manifest.SNPFirmware{{Name: "test-ovmf", SHA256: digest.Sum256([]byte("ovmf")),
				Firmware: fw, MaxVCPUs: 64, Shapes: []manifest.SNPShape{{VMM: snp.QEMU, VCPUType: "EPYC-Milan", Features: snp.DefaultFeatures}}}}}
			var launched *snp.Kernel
			if c.kernel != "" {
				launched = snp.HashKernel([]byte(c.kernel), []byte("initrd"), w.Boot.Cmdline)
			}
			d, err := snp.Measure(fw, launched, snp.Shape{VMM: snp.QEMU, VCPUs: c.vcpus, VCPUType: c.model, Features: snp.DefaultFeatures})
			if err != nil {
				t.Fatal(err)
			}
			ev := w.Evidence(t)
			ev.CPU = evidence.CPU{Type: evidence.TypeSNP, RuntimeEvents: []evidence.RuntimeEvent{}}
			r := snptest.Default(3, report.Genoa, report.VCEK)
			r.LaunchDigest = d
			if r.ReportData, err = ev.Claims.ReportData(); err != nil {
				t.Fatal(err)
			}
			h, err := ev.Config.Hash()
			if err != nil {
				t.Fatal(err)
			}
			r.HostData = h
			raw, cert, err := pki.Make(&r)
			if err != nil {
				t.Fatal(err)
			}
			ev.CPU.Quote, ev.CPU.CertChain = raw, [][]byte{cert}
			got := resulttest.Complete(t, appraise.Appraise(ev, &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: snptest.Now,
				CPUs: tee.CPUs(tee.Options{SNP: snpverify.Options{Roots: pki.Roots()}})}))
			if diff := cmp.Diff(c.want, failed(got)); diff != "" || got.Accepted != (c.want == nil) {
				t.Errorf("accepted %v, failed checks (-want +got):\n%s\n%v", got.Accepted, diff, got.Err())
			}
		})
	}
}
