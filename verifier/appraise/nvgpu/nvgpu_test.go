package nvgpu_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/rimtest"
	"cocoon/verifier/nvgpu/services"
	"cocoon/verifier/nvgputest"
	policy "cocoon/verifier/policy/nvgpu"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

// world is a machine with GPUs, and a verifier that can accept it.
type world struct {
	*tpmtest.World
	p       *nvgputest.PKI
	devices []nvgputest.Device
	nonce   *[32]byte // that the devices sign; nil: the right one
	late    func(*evidence.Evidence)
	o       gpus.Options
	keep    bool                 // the evidence brings its RIMs and OCSP responses
	ocspAt  time.Time            // of the responses
	signed  func(*nvgputest.RIM) // changes RIMs; nil: none
	now     time.Time            // of the appraisal
}

func newWorld(t *testing.T, devices []nvgputest.Device, count int, mode string) *world {
	t.Helper()
	p, err := nvgputest.New("appraise")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{World: tpmtest.NewWorld(t), p: p, devices: devices, keep: true, ocspAt: tpmtest.Now.Add(-time.Hour), now: tpmtest.Now, o: gpus.Options{Roots: p.Roots(), RIMRoots: p.RIMRoots(), Cache: nvgpu.NewCache(nvgpu.CacheOptions{})}}
	w.Config.GPUs = evidence.ConfigGPUs{Count: count, Mode: mode}
	w.Manifest.Config.GPUModes = []string{"on", "ppcie"}
	w.Manifest.GPUs = []manifest.GPUFloor{{Arch: "hopper", Driver: "550.54", VBIOS: "96.00.9F.00.01"}}
	w.Policy.NVGPU = &policy.Policy{}
	return w
}

// result makes the evidence as a measured supervisor does (DESIGN section 2)
// and appraises it.
func (w *world) result(t *testing.T) *result.Result {
	t.Helper()
	ev := w.Evidence(t)
	nonce, err := ev.Claims.GPUNonce()
	if err != nil {
		t.Fatal(err)
	}
	if w.nonce != nil {
		nonce = *w.nonce
	}
	items, err := w.p.Items(w.devices, nonce)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		ev.GPUs = append(ev.GPUs, evidence.GPU{Report: it.Report, Chain: it.Chain})
	}
	if ev.Claims.GPUEvidenceSHA256, err = evidence.GPUHash(ev.GPUs); err != nil {
		t.Fatal(err)
	}
	w.Requote(t, ev)
	if w.keep {
		w.bring(t, ev, items)
	}
	if w.late != nil {
		w.late(ev)
	}
	o := &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: w.now, GPUs: gpus.New(w.o)}
	return resulttest.Complete(t, appraise.Appraise(ev, o))
}

// bring adds RIMs and OCSP responses to the evidence.
func (w *world) bring(t *testing.T, ev *evidence.Evidence, items []nvgpu.Item) {
	t.Helper()
	var c gpus.Collateral
	seen := map[string]bool{}
	answer := func(cert *x509.Certificate) {
		if !seen[string(cert.Raw)] {
			seen[string(cert.Raw)] = true
			der, err := w.p.OCSP(cert, nvgputest.Good, w.ocspAt, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.OCSP = append(c.OCSP, der)
		}
	}
	for i := range items {
		for _, der := range items[i].Chain[1:4] {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			answer(cert)
		}
		for _, r := range nvgputest.RIMs(&w.devices[i]) {
			if seen[r.Edition+r.Version] {
				continue
			}
			seen[r.Edition+r.Version] = true
			if w.signed != nil {
				w.signed(&r)
			}
			doc, err := w.p.Sign(&r)
			if err != nil {
				t.Fatal(err)
			}
			c.RIMs = append(c.RIMs, doc)
			signers, err := w.p.Signers(&r)
			if err != nil {
				t.Fatal(err)
			}
			for _, cert := range signers {
				answer(cert)
			}
		}
	}
	var err error
	if ev.Collateral, err = json.Marshal(map[string]any{"nvgpu": c, "tdx": "another room's"}); err != nil {
		t.Fatal(err)
	}
}

func failed(r *result.Result) string {
	var ids []string
	for _, c := range r.Failed() {
		ids = append(ids, c.ID)
	}
	slices.Sort(ids)
	return strings.Join(slices.Compact(ids), " ")
}

func one() []nvgputest.Device { return []nvgputest.Device{nvgputest.GPU(1)} }

func TestEvidenceWithGPUs(t *testing.T) {
	other := [32]byte{1}
	for name, c := range map[string]struct {
		w    func(t *testing.T) *world
		want string
		exit int
	}{
		"a GPU":                     {w: func(t *testing.T) *world { return newWorld(t, one(), 1, "on") }},
		"a board in protected PCIe": {w: func(t *testing.T) *world { return newWorld(t, nvgputest.Board(), 8, "ppcie") }},
		"no nvgpu section in the policy": {w: func(t *testing.T) *world {
			w := newWorld(t, one(), 1, "on")
			w.Policy.NVGPU = nil
			return w
		}, want: "gpu.policy.section", exit: fault.ExitPolicy},
		"a report for another nonce": {w: func(t *testing.T) *world {
			w := newWorld(t, one(), 1, "on")
			w.nonce = &other
			return w
		}, want: "gpu.nonce", exit: fault.ExitRefused},
		"claims that another key signs for": {w: func(t *testing.T) *world {
			w := newWorld(t, one(), 1, "on")
			w.late = func(ev *evidence.Evidence) { ev.Claims.ReceiptKey[0] ^= 1 }
			return w
		}, want: "gpu.nonce tpm.quote.extra_data", exit: fault.ExitRefused},
		"a GPU put in afterwards": {w: func(t *testing.T) *world {
			w := newWorld(t, one(), 1, "on")
			w.late = func(ev *evidence.Evidence) {
				d := nvgputest.GPU(2)
				nonce, _ := ev.Claims.GPUNonce()
				it, err := w.p.Make(&d, nonce)
				if err != nil {
					t.Fatal(err)
				}
				ev.GPUs = []evidence.GPU{{Report: it.Report, Chain: it.Chain}}
			}
			w.Policy.NVGPU.OCSP.AllowMissing = true
			return w
		}, want: "claims.gpu_evidence_sha256", exit: fault.ExitRefused},
		"fewer GPUs than the config has": {w: func(t *testing.T) *world { return newWorld(t, one(), 2, "on") }, want: "gpu.count", exit: fault.ExitRefused},
		"more GPUs than the config has": {w: func(t *testing.T) *world {
			return newWorld(t, []nvgputest.Device{nvgputest.GPU(1), nvgputest.GPU(2)}, 1, "on")
		}, want: "gpu.count", exit: fault.ExitRefused},
		"one GPU that stands for two": {w: func(t *testing.T) *world {
			return newWorld(t, []nvgputest.Device{nvgputest.GPU(1), nvgputest.GPU(1)}, 2, "on")
		}, want: "gpu.distinct", exit: fault.ExitRefused},
		"a board that the config does not want": {w: func(t *testing.T) *world { return newWorld(t, nvgputest.Board(), 12, "on") }, want: "gpu.config.mode gpu.count", exit: fault.ExitRefused},
		"a board without a switch":              {w: func(t *testing.T) *world { return newWorld(t, nvgputest.Board()[:11], 8, "ppcie") }, want: "gpu.topology", exit: fault.ExitRefused},
		"a single GPU where a board is wanted":  {w: func(t *testing.T) *world { return newWorld(t, one(), 1, "ppcie") }, want: "gpu.config.mode", exit: fault.ExitRefused},
		"a mode that the manifest does not allow": {w: func(t *testing.T) *world {
			w := newWorld(t, one(), 1, "on")
			w.Manifest.Config.GPUModes = []string{"ppcie"}
			return w
		}, want: "config.gpus.mode", exit: fault.ExitPolicy},
		"a driver below the manifest's floor": {w: func(t *testing.T) *world {
			w := newWorld(t, one(), 1, "on")
			w.Manifest.GPUs[0].Driver = "570.00"
			return w
		}, want: "gpu.policy.driver", exit: fault.ExitPolicy},
		"nothing brought along": {w: func(t *testing.T) *world {
			w := newWorld(t, one(), 1, "on")
			w.keep = false
			return w
		}, want: "gpu.policy.measurements gpu.policy.ocsp gpu.rim.driver gpu.rim.vbios", exit: fault.ExitRefused},
		"nothing brought along, which is allowed": {w: func(t *testing.T) *world {
			w := newWorld(t, one(), 1, "on")
			w.keep, w.Policy.NVGPU = false, &policy.Policy{AllowUnmeasured: true, OCSP: policy.OCSP{AllowMissing: true}}
			return w
		}},
		"single devices are never enough": {w: func(t *testing.T) *world {
			w := newWorld(t, nvgputest.Board()[:1], 1, "ppcie")
			w.Policy.NVGPU.AllowPartial = true
			return w
		}, want: "gpu.topology", exit: fault.ExitRefused},
		"collateral that is no object": {w: func(t *testing.T) *world {
			w := newWorld(t, one(), 1, "on")
			w.late = func(ev *evidence.Evidence) { ev.Collateral = json.RawMessage(`{"nvgpu":{"rims":[],"more":1}}`) }
			return w
		}, want: "gpu.collateral.parse", exit: fault.ExitParse},
		"DEVTOOLS": {w: func(t *testing.T) *world {
			w := newWorld(t, one(), 1, "on")
			w.devices[0].Changed = map[int]string{9: "devtools"}
			return w
		}, want: "gpu.devtools gpu.measurements", exit: fault.ExitRefused},
	} {
		t.Run(name, func(t *testing.T) {
			w := c.w(t)
			r := w.result(t)
			if got := failed(r); got != c.want || r.Accepted != (c.want == "") {
				t.Errorf("accepted %v, failed %q, want %q\n%.3000v", r.Accepted, got, c.want, r.Failed())
			}
			if got := fault.ExitCode(r.Err()); got != c.exit {
				t.Errorf("exit code %d, want %d", got, c.exit)
			}
			if !r.Accepted {
				return
			}
			for i := range w.devices {
				if sub := r.Submods[result.SubGPU(i)]; sub == nil || sub.Status != result.Warning {
					t.Errorf("%s: %+v", result.SubGPU(i), sub)
				}
			}
		})
	}
}

// TestAVerdictEndsWithTheFirstOfItsGPUsBounds has each thing that a GPU's
// appraisal rests on end first in turn. A second after it the evidence is refused.
func TestAVerdictEndsWithTheFirstOfItsGPUsBounds(t *testing.T) {
	const bound = 10 * time.Minute
	end := tpmtest.Now.Add(bound)
	for name, c := range map[string]struct {
		change func(*world)
		want   time.Duration
	}{
		"an hour":            {want: time.Hour},
		"device certificate": {func(w *world) { w.devices[0].NotAfter = end }, bound},
		"OCSP responses": {func(w *world) {
			w.ocspAt = end.AddDate(0, 0, -1)
			w.Policy.NVGPU.OCSP.MaxAgeSeconds = 7 * 24 * 3600
		}, bound},
		"their age": {func(w *world) { w.Policy.NVGPU.OCSP.MaxAgeSeconds = int64((time.Hour + bound) / time.Second) }, bound},
		"driver's RIM": {func(w *world) {
			w.signed = func(r *nvgputest.RIM) {
				if r.Version == w.devices[0].Driver {
					r.NotAfter = end
				}
			}
		}, bound},
		"VBIOS's RIM": {func(w *world) {
			w.signed = func(r *nvgputest.RIM) {
				if r.Version == w.devices[0].VBIOS {
					r.NotAfter = end
				}
			}
		}, bound},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, one(), 1, "on")
			if c.change != nil {
				c.change(w)
			}
			r := w.result(t)
			if want := tpmtest.Now.Add(c.want); !r.Accepted || !r.NotAfter.Equal(want) {
				t.Fatalf("accepted %v until %s, want %s: %v", r.Accepted, r.NotAfter, want, r.Err())
			}
			w.now = r.NotAfter.Add(time.Second)
			if after := w.result(t); after.Accepted != (c.want == time.Hour) {
				t.Errorf("a second after it: accepted %v, failed %q", after.Accepted, failed(after))
			}
		})
	}
}

// server is a RIM and OCSP service with everything that a machine needs.
func (w *world) server(t *testing.T) *services.Client {
	t.Helper()
	s := rimtest.NewServer()
	for i := range w.devices {
		if err := w.p.Serve(s, &w.devices[i], tpmtest.Now.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	ts := httptest.NewServer(s)
	t.Cleanup(ts.Close)
	c, err := services.New(services.Options{RIMURL: ts.URL, Roots: w.p.RIMRoots(), Attempts: 1, Clock: func() time.Time { return tpmtest.Now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestServicesAreAsked appraises evidence that brings nothing along.
func TestServicesAreAsked(t *testing.T) {
	for name, devices := range map[string][]nvgputest.Device{"on": one(), "ppcie": nvgputest.Board()} {
		w := newWorld(t, devices, min(len(devices), 8), name)
		w.keep, w.Policy.NVGPU.OCSP.RequireNonce = false, true
		if r := w.result(t); r.Accepted {
			t.Errorf("%s: accepted without RIMs and revocation status", name)
		}
		w.o.Source = &gpus.Services{Client: w.server(t)}
		r := w.result(t)
		if !r.Accepted {
			t.Errorf("%s: %s\n%.2000v", name, failed(r), r.Failed())
		}
		// Who answers nothing good makes nobody ask.
		w.nonce = &[32]byte{1}
		w.o.Source = asked(func() { t.Errorf("%s: the source is asked for a device with another nonce", name) })
		if r := w.result(t); r.Accepted {
			t.Errorf("%s: accepted with another nonce", name)
		}
	}
}

// TestCachedAnswersAreNoNonce has a policy that demands one, and no service.
func TestCachedAnswersAreNoNonce(t *testing.T) {
	w := newWorld(t, one(), 1, "on")
	w.Policy.NVGPU.OCSP.RequireNonce = true
	if r := w.result(t); failed(r) != "gpu.policy.ocsp_nonce" {
		t.Errorf("failed %q", failed(r))
	}
}

// asked is a source that has nothing and says when it is asked for a good
// device.
type asked func()

func (f asked) Collateral(_ context.Context, ds []*nvgpu.Device, _ []byte) (gpus.Collateral, string) {
	for _, d := range ds {
		if d.Check("gpu.nonce").Status == result.Pass {
			f()
		}
	}
	return gpus.Collateral{}, ""
}
