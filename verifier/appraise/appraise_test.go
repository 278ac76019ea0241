package appraise_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

func options(t testing.TB, w *tpmtest.World) *appraise.Options {
	t.Helper()
	return &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now}
}

func failedIDs(r *result.Result) []string {
	var ids []string
	for _, c := range r.Failed() {
		ids = append(ids, c.ID)
	}
	slices.Sort(ids)
	return ids
}

func d(s string) digest.SHA256 { return digest.Sum256([]byte(s)) }

func TestGoodEvidenceIsAccepted(t *testing.T) {
	w := tpmtest.NewWorld(t)
	challenge := d("challenge")
	o := options(t, w)
	o.Challenges, o.TLSSPKI = []digest.SHA256{challenge}, &w.TLSSPKI
	r := resulttest.Complete(t, appraise.Appraise(w.Evidence(t, challenge, d("another")), o))
	if !r.Accepted {
		t.Fatalf("refused: %v", r.Err())
	}
	for _, c := range r.Checks() {
		if c.Status != result.Pass {
			t.Errorf("check %s is %s: %s", c.ID, c.Status, c.Reason)
		}
	}
	if !r.Development || r.TrustClass != policy.ClassVTPM || r.Status() != result.Warning {
		t.Errorf("development %v, class %q, status %q: want the development class, which is a warning", r.Development, r.TrustClass, r.Status())
	}
	if got, want := r.NotAfter, tpmtest.Now.Add(time.Hour); !got.Equal(want) {
		t.Errorf("good until %s, want %s", got, want)
	}
	if r.Manifest == nil || r.Manifest.Name != "test-image" {
		t.Errorf("manifest %+v", r.Manifest)
	}
}

// TestTheRecordOfTheBootIsShownAndDecidesNothing whatever it says, as long as
// it is the one that the claims name.
func TestTheRecordOfTheBootIsShownAndDecidesNothing(t *testing.T) {
	w := tpmtest.NewWorld(t)
	o := &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now}
	ev := w.Evidence(t)
	if r := resulttest.Complete(t, appraise.Appraise(ev, o)); !r.Accepted || r.Stages != nil {
		t.Errorf("without a record: stages %v, %v", r.Stages, r.Err())
	}
	w.GiveStages(t, ev)
	r := resulttest.Complete(t, appraise.Appraise(ev, o))
	if !r.Accepted || r.Stages == nil || !slices.Equal(r.Stages.List, ev.Stages.List) {
		t.Errorf("with a record: stages %v, %v", r.Stages, r.Err())
	}
	ev.Stages.List[0].Name = "another"
	if r := resulttest.Complete(t, appraise.Appraise(ev, o)); r.Accepted || r.Stages != nil {
		t.Errorf("with another record: accepted %v, stages %v", r.Accepted, r.Stages)
	}
}

// TestEachChangeIsRefusedByItsCode changes one thing about the machine, the
// evidence or the options, and wants exactly these failures.
func TestEachChangeIsRefusedByItsCode(t *testing.T) {
	type world = tpmtest.World
	for name, c := range map[string]struct {
		machine  func(*world)                                 // before the machine boots
		evidence func(*testing.T, *world, *evidence.Evidence) // after it quoted
		options  func(*testing.T, *world, *appraise.Options)  // of the appraiser
		want     []string
		exit     int
	}{
		"another initrd": {
			machine: func(w *world) { w.Boot.Components.InitrdSHA256 = d("evil") },
			want:    []string{"image.initrd", "pcr.9"}, exit: fault.ExitPolicy,
		},
		"another kernel": {
			machine: func(w *world) { w.Boot.Components.KernelAuthenticodeSHA256 = d("evil") },
			want:    []string{"image.kernel", "pcr.4"}, exit: fault.ExitPolicy,
		},
		"another command line": {
			machine: func(w *world) { w.Boot.Cmdline += " init=/bin/sh" },
			want:    []string{"image.cmdline", "image.root", "pcr.9"}, exit: fault.ExitPolicy,
		},
		"another engine in the config": {
			machine: func(w *world) { w.Config.Engine.Verity.Root = d("evil") },
			want:    []string{"config.engine.image_digest"}, exit: fault.ExitPolicy,
		},
		"another model in the config": {
			machine: func(w *world) { w.Config.Model.Verity.Root = d("evil") },
			want:    []string{"model.verity_root"}, exit: fault.ExitPolicy,
		},
		"another model name": {
			machine: func(w *world) { w.Config.Model.Name = "evil" },
			want:    []string{"model.name"}, exit: fault.ExitPolicy,
		},
		"an engine argument outside the rules": {
			machine: func(w *world) { w.Config.Engine.Args = []string{"--log-file", "/tmp/prompts"} },
			want:    []string{"config.engine.args"}, exit: fault.ExitPolicy,
		},
		"an empty engine argument, and others behind it": {
			machine: func(w *world) { w.Config.Engine.Args = []string{"", "--log-file", "/tmp/prompts"} },
			want:    []string{"config.engine.args"}, exit: fault.ExitPolicy,
		},
		"an engine argument twice": {
			machine: func(w *world) { w.Config.Engine.Args = []string{"--threads", "1", "--threads", "2"} },
			want:    []string{"config.engine.args"}, exit: fault.ExitPolicy,
		},
		"an engine argument in another spelling": {
			machine: func(w *world) { w.Config.Engine.Args = []string{"--threads", "+1"} },
			want:    []string{"config.engine.args"}, exit: fault.ExitPolicy,
		},
		"a network that is not allowed": {
			machine: func(w *world) { w.Config.NetworkID = -239 },
			want:    []string{"config.network_id"}, exit: fault.ExitPolicy,
		},
		"a registry that is not allowed": {
			machine: func(w *world) { w.Config.Registry = "0:00" },
			want:    []string{"config.registry"}, exit: fault.ExitPolicy,
		},
		"a config for another kind of machine": {
			machine: func(w *world) { w.Config.Platform = evidence.PlatformTDX },
			want:    []string{"config.platform"}, exit: fault.ExitPolicy,
		},
		"a chain that no manifest names": {
			machine: func(w *world) {
				w.Config.InitBlock = &evidence.MasterBlock{Seqno: 7, RootHash: d("root"), FileHash: d("file")}
				w.Config.Registry = "x"
				w.Manifest.Config.Registries = []string{"x"}
				w.Manifest.Config.InitBlocks = []manifest.MasterBlock{{Seqno: 7, RootHash: d("root"), FileHash: d("other")}}
			},
			want: []string{"config.init_block"}, exit: fault.ExitPolicy,
		},
		"a sealing enclave that no manifest names": {
			machine: func(w *world) {
				w.Config.Sealer = &evidence.SealingEnclave{Signer: d("signer"), Product: 1, MinSVN: 1}
			},
			want: []string{"config.sealer"}, exit: fault.ExitPolicy,
		},
		"an older sealing enclave than the manifest's": {
			machine: func(w *world) {
				w.Config.Sealer = &evidence.SealingEnclave{Signer: d("signer"), Product: 1, MinSVN: 1}
				w.Manifest.Config.Sealers = []manifest.SealingEnclave{{Signer: d("signer"), Product: 1, MinSVN: 2}}
			},
			want: []string{"config.sealer"}, exit: fault.ExitPolicy,
		},
		"GPUs that are not there": {
			machine: func(w *world) { w.Config.GPUs = evidence.ConfigGPUs{Count: 1, Mode: "on"} },
			want:    []string{"config.gpus.mode", "gpu.count"}, exit: fault.ExitRefused,
		},
		"the config swapped after the quote": {
			evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) {
				ev.Config.Engine.Args = []string{"--threads", "2"}
			},
			want: []string{"claims.config_sha256", "tpm.runtime_events"}, exit: fault.ExitRefused,
		},
		"a claim changed after the quote": {
			evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) { ev.Claims.ReceiptKey = d("evil") },
			want:     []string{"tpm.quote.extra_data"}, exit: fault.ExitRefused,
		},
		"a runtime event left out": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) { ev.CPU.RuntimeEvents = ev.CPU.RuntimeEvents[:2] },
			want:     []string{"tpm.quote.pcr_digest", "tpm.runtime_events"}, exit: fault.ExitRefused,
		},
		"the latch left out, honestly measured": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				ev.CPU.RuntimeEvents = ev.CPU.RuntimeEvents[:len(ev.CPU.RuntimeEvents)-1]
				w.Requote(t, ev)
			},
			want: []string{"tpm.runtime_events"}, exit: fault.ExitRefused,
		},
		"a runtime event more, honestly measured": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				ev.CPU.RuntimeEvents = append(ev.CPU.RuntimeEvents, evidence.RuntimeEvent{Event: "latch", Value: "x"})
				w.Requote(t, ev)
			},
			want: []string{"tpm.runtime_events"}, exit: fault.ExitRefused,
		},
		"another log than was measured": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				b := w.Boot
				b.Components.InitrdSHA256 = d("evil")
				ev.CPU.EventLog = tpmtest.Log(b.Events(t))
			},
			want: []string{"image.initrd", "pcr.9", "tpm.quote.pcr_digest"}, exit: fault.ExitRefused,
		},
		"labels of events exchanged": {
			machine: func(w *world) { w.Boot.Components.InitrdSHA256 = d("evil") },
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				ev.CPU.EventLog = bytes.ReplaceAll(ev.CPU.EventLog, []byte("Linux initrd"), []byte("Linux xxxxxx"))
			},
			want: []string{"image.initrd", "pcr.9"}, exit: fault.ExitPolicy,
		},
		"a log with firmware events in PCR 15": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				ev.CPU.EventLog = tpmtest.Log(append(w.Boot.Events(t), tpmtest.LogEvent{PCR: 15, Type: 0xd, Of: []byte("x")}))
			},
			want: []string{"tpm.event_log.format", "tpm.quote.pcr_digest"}, exit: fault.ExitRefused,
		},
		"no log": {
			evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) { ev.CPU.EventLog = nil },
			want:     []string{"tpm.event_log.format", "tpm.quote.pcr_digest"}, exit: fault.ExitRefused,
		},
		"a quote of another TPM": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				w.TPM = tpmtest.NewTPM(t, w.EKCA)
				w.Requote(t, ev)
			},
			want: []string{"tpm.quote.signature"}, exit: fault.ExitRefused,
		},
		"an AK of another authority": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) { ev.CPU.CertChain = tpmtest.NewWorld(t).Chain(t) },
			want:     []string{"tpm.ak.chain", "tpm.ak.enrolment", "tpm.quote.signature"}, exit: fault.ExitRefused,
		},
		"no AK certificate": {
			evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) { ev.CPU.CertChain = nil },
			want:     []string{"tpm.ak.chain", "tpm.quote.signature"}, exit: fault.ExitRefused,
		},
		"an expired AK certificate": {
			options: func(_ *testing.T, _ *world, o *appraise.Options) { o.Now = tpmtest.Now.AddDate(0, 0, 2) },
			want:    []string{"tpm.ak.validity"}, exit: fault.ExitRefused,
		},
		"an image past its sunset": {
			machine: func(w *world) { w.Manifest.Sunset = tpmtest.Now },
			want:    []string{"manifest.sunset"}, exit: fault.ExitPolicy,
		},
		"a revoked manifest": {
			options: func(_ *testing.T, w *world, o *appraise.Options) {
				p := *o.Policy
				p.Manifests.Revoked = []digest.SHA256{o.Manifests[0].SHA256}
				o.Policy = &p
			},
			want: []string{"manifest.revoked"}, exit: fault.ExitPolicy,
		},
		"no manifest": {
			options: func(_ *testing.T, _ *world, o *appraise.Options) { o.Manifests = nil },
			want:    []string{"manifest.trusted"}, exit: fault.ExitPolicy,
		},
		"a manifest without a TPM section": {
			machine: func(w *world) { w.Manifest.TPM = nil },
			want:    []string{"manifest.tpm"}, exit: fault.ExitPolicy,
		},
		"no policy": {
			options: func(_ *testing.T, _ *world, o *appraise.Options) { o.Policy = nil },
			want:    []string{"policy.missing"}, exit: fault.ExitPolicy,
		},
		"a production policy": {
			options: func(_ *testing.T, w *world, o *appraise.Options) {
				p := *o.Policy
				p.Environment = policy.Production
				o.Policy = &p
			},
			want: []string{"policy.trust_class"}, exit: fault.ExitPolicy,
		},
		"a debug image under a production policy": {
			machine: func(w *world) {
				w.Boot.Cmdline += " cocoon.debug"
				w.Manifest.Image.Debug = true
				w.Manifest.Boot.Cmdline = w.Boot.Cmdline
				fw, err := manifest.NewTPMFirmware(w.Boot.Firmware, w.Boot.Components, w.Boot.Cmdline)
				if err != nil {
					panic(err)
				}
				w.Manifest.TPM.Firmwares = []manifest.TPMFirmware{fw}
			},
			options: func(_ *testing.T, w *world, o *appraise.Options) {
				p := *o.Policy
				p.Environment = policy.Production
				o.Policy = &p
			},
			want: []string{"manifest.debug", "policy.trust_class"}, exit: fault.ExitPolicy,
		},
		"a policy for TDX only": {
			options: func(_ *testing.T, w *world, o *appraise.Options) {
				p := *o.Policy
				p.TrustClasses = []string{policy.ClassTDX}
				o.Policy = &p
			},
			want: []string{"policy.trust_class"}, exit: fault.ExitPolicy,
		},
		"a challenge that is not answered": {
			options: func(_ *testing.T, _ *world, o *appraise.Options) { o.Challenges = []digest.SHA256{d("fresh")} },
			want:    []string{"nonce.challenge"}, exit: fault.ExitRefused,
		},
		"a challenge that is required and was not given": {
			options: func(_ *testing.T, _ *world, o *appraise.Options) { o.RequireChallenge = true },
			want:    []string{"nonce.challenge"}, exit: fault.ExitRefused,
		},
		"a challenge put in after the quote": {
			evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) {
				ev.NonceInputs = evidence.SortNonceInputs(append(ev.NonceInputs, d("fresh")))
			},
			options: func(_ *testing.T, _ *world, o *appraise.Options) { o.Challenges = []digest.SHA256{d("fresh")} },
			want:    []string{"claims.nonce"}, exit: fault.ExitRefused,
		},
		"nonce inputs out of order": {
			evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) { ev.NonceInputs = []digest.SHA256{d("b"), d("b")} },
			want:     []string{"nonce.inputs"}, exit: fault.ExitRefused,
		},
		"a record of another boot": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				w.GiveStages(t, ev)
				ev.Stages.List[1].MS++
			},
			want: []string{"claims.stages_sha256"}, exit: fault.ExitRefused,
		},
		"a record of the boot that was taken out": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				w.GiveStages(t, ev)
				ev.Stages = nil
			},
			want: []string{"claims.stages_sha256"}, exit: fault.ExitRefused,
		},
		"a record of the boot that was put in": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				w.GiveStages(t, ev)
				ev.Claims.StagesSHA256 = nil
				w.Requote(t, ev)
			},
			want: []string{"claims.stages_sha256"}, exit: fault.ExitRefused,
		},
		"a record of the boot that was put in with its hash": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				quote, signature := ev.CPU.Quote, ev.CPU.Signature
				w.GiveStages(t, ev)
				ev.CPU.Quote, ev.CPU.Signature = quote, signature
			},
			want: []string{"tpm.quote.extra_data"}, exit: fault.ExitRefused,
		},
		"a further model that the manifest does not name": {
			machine: func(w *world) {
				w.Config.Models = []evidence.ConfigModel{{Name: "evil", Verity: evidence.Verity{Root: d("evil"), DataBlocks: 1}}}
			},
			want: []string{"model.name", "model.verity_root"}, exit: fault.ExitPolicy,
		},
		"a further model with other content": {
			machine: func(w *world) {
				w.Manifest.Models = append(w.Manifest.Models, manifest.Model{Name: "more", VerityRoot: d("more")})
				w.Config.Models = []evidence.ConfigModel{{Name: "more", Verity: evidence.Verity{Root: d("evil"), DataBlocks: 1}}}
			},
			want: []string{"model.verity_root"}, exit: fault.ExitPolicy,
		},
		"a further model that was not measured": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				ev.Config.Models = []evidence.ConfigModel{{Name: "chat2", Verity: evidence.Verity{Root: d("more"), DataBlocks: 1}}}
				ev.Claims.ConfigSHA256, _ = ev.Config.Hash()
				w.Requote(t, ev)
			},
			want: []string{"model.name", "model.verity_root", "tpm.runtime_events"}, exit: fault.ExitRefused,
		},
		"claims of a model that the machine does not serve": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				ev.Claims.Model = evidence.Model{Name: "other", VerityRoot: d("other")}
				w.Requote(t, ev)
			},
			want: []string{"claims.model"}, exit: fault.ExitRefused,
		},
		"claims of a model under another's name": {
			machine: func(w *world) {
				w.Manifest.Models = append(w.Manifest.Models, manifest.Model{Name: "more", VerityRoot: d("more")})
				w.Config.Models = []evidence.ConfigModel{{Name: "more", Verity: evidence.Verity{Root: d("more"), DataBlocks: 1}}}
			},
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				ev.Claims.Model.VerityRoot = d("more")
				w.Requote(t, ev)
			},
			want: []string{"claims.model"}, exit: fault.ExitRefused,
		},
		"another TLS key": {
			options: func(_ *testing.T, _ *world, o *appraise.Options) { k := d("evil"); o.TLSSPKI = &k },
			want:    []string{"tls.spki"}, exit: fault.ExitRefused,
		},
		"a CPU type that nobody here reads": {
			evidence: func(_ *testing.T, _ *world, ev *evidence.Evidence) { ev.CPU.Type = evidence.TypeTDX },
			want:     []string{"evidence.type.unsupported"}, exit: fault.ExitRefused,
		},
		"a GPU that nobody here reads": {
			evidence: func(t *testing.T, w *world, ev *evidence.Evidence) {
				ev.GPUs = []evidence.GPU{{Report: []byte("r"), Chain: [][]byte{}}}
				ev.Claims.GPUEvidenceSHA256, _ = evidence.GPUHash(ev.GPUs)
				w.Requote(t, ev)
			},
			want: []string{"gpu.count", "gpu.unsupported"}, exit: fault.ExitRefused,
		},
		"everything at once": {
			machine: func(w *world) {
				w.Boot.Components.InitrdSHA256 = d("evil")
				w.Config.Engine.Verity.Root = d("evil")
				w.Config.Model.Verity.Root = d("evil")
			},
			options: func(_ *testing.T, _ *world, o *appraise.Options) { o.Challenges = []digest.SHA256{d("fresh")} },
			want:    []string{"config.engine.image_digest", "image.initrd", "model.verity_root", "nonce.challenge", "pcr.9"}, exit: fault.ExitRefused,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := tpmtest.NewWorld(t)
			if c.machine != nil {
				c.machine(w)
			}
			ev := w.Evidence(t)
			if c.evidence != nil {
				c.evidence(t, w, ev)
			}
			o := options(t, w)
			if c.options != nil {
				c.options(t, w, o)
			}
			r := resulttest.Complete(t, appraise.Appraise(ev, o))
			if r.Accepted {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(c.want, failedIDs(r)); diff != "" {
				t.Errorf("failed checks (-want +got):\n%s", diff)
			}
			for _, f := range r.Failed() {
				if f.Reason == "" || f.Expected == f.Actual {
					t.Errorf("check %s explains nothing: %+v", f.ID, f)
				}
			}
			if got := fault.ExitCode(r.Err()); got != c.exit {
				t.Errorf("exit code %d, want %d", got, c.exit)
			}
		})
	}
}

// TestFailuresSayWhatDiffers wants live values on both sides.
func TestFailuresSayWhatDiffers(t *testing.T) {
	w := tpmtest.NewWorld(t)
	good := w.Boot.Components.InitrdSHA256
	w.Boot.Components.InitrdSHA256 = d("evil")
	r := resulttest.Complete(t, appraise.Appraise(w.Evidence(t), options(t, w)))
	for _, c := range r.Failed() {
		if c.ID == "image.initrd" {
			if c.Expected != good.String() || c.Actual != d("evil").String() {
				t.Errorf("expected %s, actual %s", c.Expected, c.Actual)
			}
			return
		}
	}
	t.Error("image.initrd did not fail")
}

func TestResultIsJSONThatSaysTheSame(t *testing.T) {
	w := tpmtest.NewWorld(t)
	w.Boot.Cmdline += " x"
	r := resulttest.Complete(t, appraise.Appraise(w.Evidence(t), options(t, w)))
	b, err := jcs.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back result.Result
	if err := jcs.Decode(b, 1<<20, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(failedIDs(r), failedIDs(&back)); diff != "" {
		t.Errorf("failed checks after a round trip (-want +got):\n%s", diff)
	}
	var refused *result.RefusedError
	if err := back.Err(); !errors.As(err, &refused) || !strings.Contains(err.Error(), "image.cmdline") {
		t.Errorf("error is %v", err)
	}
}
