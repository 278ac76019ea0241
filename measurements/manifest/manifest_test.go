package manifest_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	attestation "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"cocoon/internal/bootargs"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/pcr"
)

// fixture returns a valid manifest.
func fixture(t testing.TB) *manifest.Manifest {
	t.Helper()
	sum := func(s string) digest.SHA256 { return digest.Sum256([]byte(s)) }
	rules, err := manifest.DefaultRelease()
	if err != nil {
		t.Fatal(err)
	}
	components := pcr.Components{KernelAuthenticodeSHA256: sum("kernel"), InitrdSHA256: sum("initrd")}
	root := bootargs.Root{Hash: sum("root"), Salt: []byte("salt"), Blocks: 1000}
	fw, err := manifest.NewTPMFirmware(pcr.Firmware{Name: "test", SHA256: sum("firmware"), PCR0: sum("pcr0"), PCR7: sum("pcr7"),
		Provenance: pcr.ProvenanceRecorded, Cmdline: pcr.CmdlineInitrdFirst}, components, root.String())
	if err != nil {
		t.Fatal(err)
	}
	return &manifest.Manifest{
		Format: manifest.Format, Image: manifest.Image{Name: "test-image", Version: 1, Profile: "cpu", SourceDate: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)},
		Artifacts: []manifest.Artifact{{Name: "image/vmlinuz", SHA256: sum("vmlinuz"), Size: 1}}, Inputs: []manifest.Artifact{},
		Boot:    manifest.Boot{Cmdline: root.String(), RootVerity: root.Hash},
		TPM:     &manifest.TPM{Components: components, Firmwares: []manifest.TPMFirmware{fw}},
		Engines: []manifest.Engine{{Kind: rules.Engine, ImageDigest: sum("engine"), Args: rules.Args}},
		Config:  rules.Config, Models: []manifest.Model{{Name: "chat", VerityRoot: sum("model")}}, GPUs: []manifest.GPUFloor{},
		TDX: fixtureTDX(root.String()), SNP: fixtureSNP(root.String()), Supersedes: []manifest.Superseded{},
		Sunset: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

func newKey(t testing.TB) (digest.SHA256, ed25519.PrivateKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return digest.SHA256(pub), key
}

func TestSignedManifestOpensUnderItsKeysOrItsHash(t *testing.T) {
	m := fixture(t)
	pubA, a := newKey(t)
	pubB, b := newKey(t)
	pubC, _ := newKey(t)
	env, err := manifest.Sign(m, a, b)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := m.Payload()
	if err != nil {
		t.Fatal(err)
	}
	sum := digest.Sum256(payload)
	for name, c := range map[string]struct {
		trust   manifest.Trust
		ok      bool
		signers int
	}{
		"both of two":                 {manifest.Trust{Keys: []digest.SHA256{pubA, pubB}, Threshold: 2}, true, 2},
		"one of two":                  {manifest.Trust{Keys: []digest.SHA256{pubA, pubC}, Threshold: 1}, true, 1},
		"its hash":                    {manifest.Trust{Hashes: []digest.SHA256{sum}}, true, 0},
		"nothing":                     {manifest.Trust{}, false, 0},
		"a key that did not sign":     {manifest.Trust{Keys: []digest.SHA256{pubC}, Threshold: 1}, false, 0},
		"one key listed twice":        {manifest.Trust{Keys: []digest.SHA256{pubA, pubA}, Threshold: 2}, false, 0},
		"keys without a threshold":    {manifest.Trust{Keys: []digest.SHA256{pubA}}, false, 0},
		"the hash of something else":  {manifest.Trust{Hashes: []digest.SHA256{digest.Sum256(env)}}, false, 0},
		"two of two, of which one is": {manifest.Trust{Keys: []digest.SHA256{pubA, pubC}, Threshold: 2}, false, 0},
	} {
		v, err := manifest.Open(env, c.trust)
		if c.ok {
			if err != nil || v.SHA256 != sum || len(v.Signers) != c.signers || !bytes.Equal(v.Payload, payload) {
				t.Errorf("%s: %+v, %v", name, v, err)
			}
			continue
		}
		if !errors.Is(err, manifest.ErrNotTrusted) {
			t.Errorf("%s: got %v, want ErrNotTrusted", name, err)
		}
	}
}

// TestNoFlippedByteOfAnEnvelopeIsAccepted flips every byte of a signed
// manifest: it may open only where nothing of payload or trust changed.
func TestNoFlippedByteOfAnEnvelopeIsAccepted(t *testing.T) {
	pub, key := newKey(t)
	m := fixture(t)
	env, err := manifest.Sign(m, key)
	if err != nil {
		t.Fatal(err)
	}
	want, err := m.Payload()
	if err != nil {
		t.Fatal(err)
	}
	trust := manifest.Trust{Keys: []digest.SHA256{pub}, Threshold: 1}
	keyid := bytes.Index(env, []byte(`"keyid":"`)) + len(`"keyid":"`)
	for i := range env {
		env[i] ^= 1
		v, err := manifest.Open(env, trust)
		env[i] ^= 1
		// The key id is a hint that nothing rests on.
		if hint := i >= keyid && i < keyid+64; err == nil && (!hint || !bytes.Equal(v.Payload, want)) {
			t.Errorf("byte %d (near %q): opened", i, env[max(0, i-20):min(len(env), i+20)])
		}
	}
}

// TestPayloadIsAnInTotoStatement reads the payload with the in-toto project's
// own types.
func TestPayloadIsAnInTotoStatement(t *testing.T) {
	payload, err := fixture(t).Payload()
	if err != nil {
		t.Fatal(err)
	}
	var s attestation.Statement
	if err := protojson.Unmarshal(payload, &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Errorf("in-toto finds the statement invalid: %v", err)
	}
	if s.PredicateType != manifest.PredicateType || s.Subject[0].Digest["sha256"] == "" {
		t.Errorf("statement is %v", &s)
	}
}

func TestInconsistentManifestsAreRefused(t *testing.T) {
	for name, change := range map[string]func(*manifest.Manifest){
		"another format":              func(m *manifest.Manifest) { m.Format = 3 },
		"no version":                  func(m *manifest.Manifest) { m.Image.Version = 0 },
		"no artifacts":                func(m *manifest.Manifest) { m.Artifacts = nil },
		"unsorted artifacts":          func(m *manifest.Manifest) { m.Artifacts = append(m.Artifacts, m.Artifacts[0]) },
		"no sunset":                   func(m *manifest.Manifest) { m.Sunset = m.Sunset.AddDate(-5000, 0, 0) },
		"a root that is not booted":   func(m *manifest.Manifest) { m.Boot.RootVerity[0] ^= 1 },
		"a debug mark out of nothing": func(m *manifest.Manifest) { m.Image.Debug = true },
		"a debug mark that is hidden": hideDebug,
		"another command line":        func(m *manifest.Manifest) { m.Boot.Cmdline += " x" },
		"a command line without root": func(m *manifest.Manifest) { m.Boot.Cmdline = "quiet" },
		"a register changed":          func(m *manifest.Manifest) { m.TPM.Firmwares[0].PCRs[9] = digest.SHA256{1} },
		"a register left out":         func(m *manifest.Manifest) { delete(m.TPM.Firmwares[0].PCRs, 4) },
		"a register added":            func(m *manifest.Manifest) { m.TPM.Firmwares[0].PCRs[1] = digest.SHA256{1} },
		"an initrd changed":           func(m *manifest.Manifest) { m.TPM.Components.InitrdSHA256[0] ^= 1 },
		"a firmware twice":            func(m *manifest.Manifest) { m.TPM.Firmwares = append(m.TPM.Firmwares, m.TPM.Firmwares[0]) },
		"no firmware":                 func(m *manifest.Manifest) { m.TPM.Firmwares = nil },
		"no profile":                  func(m *manifest.Manifest) { m.Image.Profile = "" },
		"a manifest superseded twice": func(m *manifest.Manifest) { m.Supersedes = append(grace(), grace()...) },
		"a grace without end":         func(m *manifest.Manifest) { m.Supersedes = []manifest.Superseded{{Manifest: digest.Sum256(nil)}} },
		"an RTMR1 changed":            func(m *manifest.Manifest) { m.TDX.Firmwares[0].RTMR1.Value[0] ^= 1 },
		"an RTMR1 left out":           func(m *manifest.Manifest) { m.TDX.Firmwares[0].RTMR1.Value = nil },
		"a kernel changed":            func(m *manifest.Manifest) { m.TDX.Components.KernelAuthenticodeSHA384[0] ^= 1 },
		"a command line twice":        func(m *manifest.Manifest) { r := &m.TDX.Firmwares[0].RTMR2; r.Events = append(r.Events, r.Events[0]) },
		"a command line changed": func(m *manifest.Manifest) {
			r := &m.TDX.Firmwares[0].RTMR2
			r.Events[0].Digest[0] ^= 1
			v, _ := r.Fixed()
			r.Value = &v
		},
		"a host event with a digest":  func(m *manifest.Manifest) { m.TDX.Firmwares[0].RTMR0.Events[0].Host = true },
		"an event without a digest":   func(m *manifest.Manifest) { m.TDX.Firmwares[0].RTMR0.Events[1].Host = false },
		"a value that cannot be":      func(m *manifest.Manifest) { m.TDX.Firmwares[0].RTMR0.Value = &digest.SHA384{1} },
		"no MRTD":                     func(m *manifest.Manifest) { m.TDX.Firmwares[0].MRTD = nil },
		"unsorted MRTDs":              func(m *manifest.Manifest) { f := &m.TDX.Firmwares[0]; f.MRTD = append(f.MRTD, digest.SHA384{}) },
		"a TDX firmware twice":        func(m *manifest.Manifest) { m.TDX.Firmwares = append(m.TDX.Firmwares, m.TDX.Firmwares[0]) },
		"an SNP command line changed": func(m *manifest.Manifest) { m.SNP.Components.Cmdline[0] ^= 1 },
		"an SNP initrd changed":       func(m *manifest.Manifest) { m.SNP.Components.Initrd[0] ^= 1 },
		"no vCPUs":                    func(m *manifest.Manifest) { m.SNP.Firmwares[0].MaxVCPUs = 0 },
		"too many vCPUs":              func(m *manifest.Manifest) { m.SNP.Firmwares[0].MaxVCPUs = 1025 },
		"no shape":                    func(m *manifest.Manifest) { m.SNP.Firmwares[0].Shapes = nil },
		"a shape that cannot be":      func(m *manifest.Manifest) { m.SNP.Firmwares[0].Shapes[0].VCPUType = "486" },
		"no table of kernel hashes":   func(m *manifest.Manifest) { m.SNP.Firmwares[0].HashGPA = 0 },
		"no source date":              func(m *manifest.Manifest) { m.Image.SourceDate = time.Time{} },
		"a shape twice":               func(m *manifest.Manifest) { f := &m.SNP.Firmwares[0]; f.Shapes = append(f.Shapes, f.Shapes[0]) },
		"no engine":                   func(m *manifest.Manifest) { m.Engines = nil },
		"an argument twice":           func(m *manifest.Manifest) { m.Engines[0].Args = append(m.Engines[0].Args, m.Engines[0].Args[0]) },
		"an argument of no kind":      func(m *manifest.Manifest) { m.Engines[0].Args[0].Kind = "any" },
		"an empty range":              func(m *manifest.Manifest) { m.Engines[0].Args[0].Max = 1 },
		"no model":                    func(m *manifest.Manifest) { m.Models = nil },
		"no roles":                    func(m *manifest.Manifest) { m.Config.Roles = nil },
		"a network twice":             func(m *manifest.Manifest) { m.Config.NetworkIDs = []int32{0, 0} },
	} {
		m := fixture(t)
		change(m)
		if _, err := m.Payload(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// hideDebug makes a manifest that is consistent but for the mark.
func hideDebug(m *manifest.Manifest) {
	m.Boot.Cmdline += " cocoon.debug"
	fw, err := manifest.NewTPMFirmware(m.TPM.Firmwares[0].Firmware, m.TPM.Components, m.Boot.Cmdline)
	if err != nil {
		panic(err)
	}
	m.TPM.Firmwares = []manifest.TPMFirmware{fw}
	m.TDX, m.SNP = nil, nil // for the other command line
}

func TestADebugImageIsMarkedInItsManifest(t *testing.T) {
	m := fixture(t)
	hideDebug(m)
	m.Image.Debug = true
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
}

func TestPayloadsAreStrict(t *testing.T) {
	payload, err := fixture(t).Payload()
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]string{
		"white space":       " " + string(payload),
		"an unknown key":    strings.Replace(string(payload), `{"_type"`, `{"":1,"_type"`, 1),
		"a key twice":       strings.Replace(string(payload), `{"_type"`, `{"_type":"x","_type"`, 1),
		"another type":      strings.Replace(string(payload), "Statement/v1", "Statement/v2", 1),
		"another predicate": strings.Replace(string(payload), manifest.PredicateType, manifest.PredicateType+"0", 1),
		"another subject":   strings.Replace(string(payload), `"subject":[{"digest":{"sha256":"`, `"subject":[{"digest":{"sha256":"0`, 1),
		"trailing data":     string(payload) + "{}",
	} {
		if _, err := manifest.ParsePayload([]byte(in)); !errors.Is(err, manifest.ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var e map[string]any
	_, key := newKey(t)
	env, err := manifest.Sign(fixture(t), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(env, &e); err != nil {
		t.Fatal(err)
	}
	e["payload"] = base64.URLEncoding.EncodeToString([]byte("\xff\xff\xff"))
	bad, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Open(bad, manifest.Trust{}); !errors.Is(err, manifest.ErrForm) {
		t.Errorf("URL-safe base64: %v", err)
	}
}

func TestDefaultReleaseIsValid(t *testing.T) {
	r, err := manifest.DefaultRelease()
	if err != nil {
		t.Fatal(err)
	}
	rec, err := pcr.Recorded()
	if err != nil {
		t.Fatal(err)
	}
	if r.Engine != "llama-server" || len(rec.Firmwares) == 0 {
		t.Errorf("engine %q, %d recorded firmwares", r.Engine, len(rec.Firmwares))
	}
}

func FuzzOpen(f *testing.F) {
	m := fixture(f)
	pub, key := newKey(f)
	env, err := manifest.Sign(m, key)
	if err != nil {
		f.Fatal(err)
	}
	payload, err := m.Payload()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(env, payload)
	trust := manifest.Trust{Keys: []digest.SHA256{pub}, Threshold: 1}
	f.Fuzz(func(t *testing.T, in, body []byte) {
		if v, err := manifest.Open(in, trust); err == nil && !bytes.Equal(v.Payload, payload) {
			t.Fatal("opened another payload")
		}
		m, err := manifest.ParsePayload(body)
		if err != nil {
			return
		}
		again, err := m.Payload()
		if err != nil || !bytes.Equal(again, body) {
			t.Fatalf("payload is not canonical: %v", err)
		}
	})
}
