package tpmtest

import (
	"crypto/ed25519"
	"encoding/binary"

	"cocoon/internal/bootargs"
	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/manifest"
	"cocoon/measurements/pcr"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/tpm"
)

// World is an image, its manifest, a policy that accepts it for development,
// and a machine that boots it. Tests change fields before they call a method.
type World struct {
	EKCA        *EKCA
	AKCA        *tpm.CA
	TPM         *TPM
	ManifestKey ed25519.PrivateKey
	Manifest    *manifest.Manifest
	Policy      *policy.Policy
	Config      evidence.Config
	Boot        Boot // what the machine really boots

	TLSSPKI, ReceiptKey digest.SHA256 // of the machine
}

// Boot is what is measured at a boot.
type Boot struct {
	Firmware   pcr.Firmware
	Components pcr.Components
	Cmdline    string
}

// NewWorld makes one.
func NewWorld(t T) *World {
	helper(t)
	w := &World{EKCA: NewEKCA(t, "test EK CA"), TLSSPKI: sum("tls key"), ReceiptKey: sum("receipt key")}
	var err error
	w.AKCA, err = tpm.NewCA("test AK CA", Now.AddDate(0, -1, 0), 365*24*3600e9)
	check(t, err)
	w.TPM = NewTPM(t, w.EKCA)
	_, w.ManifestKey, err = ed25519.GenerateKey(nil)
	check(t, err)
	root := sum("root")
	w.Boot = Boot{
		Firmware: pcr.Firmware{Name: "test-firmware", SHA256: sum("firmware"), PCR0: pcr.Extend(digest.Sum256([]byte("crtm")), digest.Sum256(make([]byte, 4))),
			PCR7: pcr.Extend(digest.Sum256([]byte("secure boot")), digest.Sum256(make([]byte, 4))), Provenance: pcr.ProvenanceRecorded, Cmdline: pcr.CmdlineInitrdFirst},
		Components: pcr.Components{KernelAuthenticodeSHA256: sum("kernel"), InitrdSHA256: sum("initrd")},
		Cmdline:    bootargs.Root{Hash: root, Salt: []byte("salt"), Blocks: 1000}.String(),
	}
	w.Config = evidence.Config{
		Version: 1, Role: evidence.RoleWorker,
		Model:  evidence.ConfigModel{Name: "chat", Verity: evidence.Verity{Root: sum("model"), Salt: sum("salt"), DataBlocks: 10}},
		Engine: evidence.ConfigEngine{Kind: evidence.EngineLlamaServer, Verity: evidence.Verity{Root: sum("engine"), Salt: sum("salt"), DataBlocks: 10}, Args: []string{"--ctx-size", "2048"}},
		GPUs:   evidence.ConfigGPUs{Mode: evidence.GPUModeNone},
	}
	w.Manifest = w.manifest(t, root)
	w.Policy = &policy.Policy{
		Format: policy.Format, Name: "test", Environment: policy.Development, TrustClasses: []string{policy.ClassVTPM},
		Manifests: policy.Manifests{Hashes: []digest.SHA256{}, Keys: []digest.SHA256{digest.SHA256(w.ManifestKey.Public().(ed25519.PublicKey))}, Threshold: 1, Revoked: []digest.SHA256{}},
		TPM:       &policy.TPM{EKRoots: [][]byte{w.EKCA.Cert.Raw}, AKRoots: [][]byte{w.AKCA.Cert.Raw}},
		Freshness: policy.Freshness{VerdictSeconds: 3600},
	}
	return w
}

func sum(s string) digest.SHA256 { return digest.Sum256([]byte("tpmtest " + s)) }

func (w *World) manifest(t T, root digest.SHA256) *manifest.Manifest {
	helper(t)
	fw, err := manifest.NewTPMFirmware(w.Boot.Firmware, w.Boot.Components, w.Boot.Cmdline)
	check(t, err)
	rules, err := manifest.DefaultRelease()
	check(t, err)
	return &manifest.Manifest{
		Format: manifest.Format, Image: manifest.Image{Name: "test-image", Version: 1, Profile: "cpu", SourceDate: Now.AddDate(0, -1, 0)},
		Artifacts: []manifest.Artifact{{Name: "image/vmlinuz", SHA256: sum("vmlinuz"), Size: 1}},
		Inputs:    []manifest.Artifact{},
		Boot:      manifest.Boot{Cmdline: w.Boot.Cmdline, RootVerity: root},
		TPM:       &manifest.TPM{Components: w.Boot.Components, Firmwares: []manifest.TPMFirmware{fw}},
		Engines:   []manifest.Engine{{Kind: evidence.EngineLlamaServer, ImageDigest: sum("engine"), Args: rules.Args}},
		Config:    rules.Config,
		Models:    []manifest.Model{{Name: "chat", VerityRoot: sum("model")}},
		GPUs:      []manifest.GPUFloor{}, Supersedes: []manifest.Superseded{},
		Sunset: Now.AddDate(1, 0, 0),
	}
}

// Envelope returns the manifest, signed.
func (w *World) Envelope(t T) []byte {
	helper(t)
	b, err := manifest.Sign(w.Manifest, w.ManifestKey)
	check(t, err)
	return b
}

// Manifests returns the manifest, opened under the policy.
func (w *World) Manifests(t T) []*manifest.Verified {
	helper(t)
	v, err := manifest.Open(w.Envelope(t), w.Policy.Trust())
	check(t, err)
	return []*manifest.Verified{v}
}

// Chain returns an attestation key certificate for the machine's TPM, without
// enrolment.
func (w *World) Chain(t T) [][]byte {
	helper(t)
	der, err := w.AKCA.Issue(w.TPM.AKPublic, w.TPM.AK.Public(), w.EKCA.Cert, Now.Add(-5*60e9), Now.AddDate(0, 0, 1))
	check(t, err)
	return [][]byte{der, w.AKCA.Cert.Raw}
}

// Events returns the boot's log as OVMF and the kernel's EFI stub write it at
// a direct boot.
func (b Boot) Events(t T) []LogEvent {
	helper(t)
	load, err := pcr.CmdlineDigest(b.Firmware.Cmdline, b.Cmdline)
	check(t, err)
	tag := func(text string) []byte {
		d := binary.LittleEndian.AppendUint32(nil, 0x8F3B22EC)
		return append(binary.LittleEndian.AppendUint32(d, uint32(len(text))), text...)
	}
	action := func(reg uint32, text string) LogEvent {
		return LogEvent{PCR: reg, Type: uint32(eventlog.EFIAction), Of: []byte(text), Data: []byte(text)}
	}
	out := []LogEvent{
		{PCR: 0, Type: uint32(eventlog.SCRTMVersion), Of: []byte("crtm"), Data: []byte("crtm")},
		{PCR: 7, Type: uint32(eventlog.EFIVariableDriverConf), Of: []byte("secure boot")},
		{PCR: 7, Type: uint32(eventlog.Separator), Of: make([]byte, 4), Data: make([]byte, 4)},
		{PCR: 1, Type: uint32(eventlog.EFIHandoffTables), Of: []byte("ACPI DATA of this host")},
		{PCR: 4, Type: uint32(eventlog.EFIBootApplication), Digest: b.Components.KernelAuthenticodeSHA256},
		action(4, "Calling EFI Application from Boot Option"),
	}
	for reg := range uint32(7) {
		out = append(out, LogEvent{PCR: reg, Type: uint32(eventlog.Separator), Of: make([]byte, 4), Data: make([]byte, 4)})
	}
	return append(out,
		LogEvent{PCR: 9, Type: uint32(eventlog.EventTag), Digest: load, Data: tag("LOADED_IMAGE::LoadOptions")},
		LogEvent{PCR: 9, Type: uint32(eventlog.EventTag), Digest: b.Components.InitrdSHA256, Data: tag("Linux initrd")},
		action(5, "Exit Boot Services Invocation"),
		action(5, "Exit Boot Services Returned with Success"))
}

// Evidence returns evidence of the machine for the given contributions to the
// nonce. With none it makes one up.
func (w *World) Evidence(t T, challenges ...digest.SHA256) *evidence.Evidence {
	helper(t)
	if len(challenges) == 0 {
		challenges = []digest.SHA256{sum("challenge")}
	}
	ev := &evidence.Evidence{
		Profile: evidence.Profile, Config: w.Config, NonceInputs: evidence.SortNonceInputs(challenges), GPUs: []evidence.GPU{},
		CPU: evidence.CPU{Type: evidence.TypeTPM, CertChain: w.Chain(t), EventLog: Log(w.Boot.Events(t))},
	}
	var err error
	ev.CPU.RuntimeEvents, err = evidence.RuntimeEvents(&w.Config)
	check(t, err)
	nonce, err := evidence.NonceOf(ev.NonceInputs)
	check(t, err)
	config, err := w.Config.Hash()
	check(t, err)
	gpus, err := evidence.GPUHash(ev.GPUs)
	check(t, err)
	ev.Claims = evidence.Claims{
		TLSSPKISHA256: w.TLSSPKI, ReceiptKey: w.ReceiptKey, ConfigSHA256: config,
		Model:             evidence.Model{Name: w.Config.Model.Name, VerityRoot: w.Config.Model.Verity.Root},
		GPUEvidenceSHA256: gpus, Nonce: nonce,
	}
	w.Requote(t, ev)
	return ev
}

// GiveStages gives evidence a record of the boot, and claims its hash.
func (w *World) GiveStages(t T, ev *evidence.Evidence) {
	helper(t)
	ev.Stages = &evidence.Stages{Version: evidence.StagesVersion, List: []evidence.Stage{
		{Name: "config", Status: evidence.StageOK, MS: 3}, {Name: "model", Status: evidence.StageOK, MS: 1200}, {Name: "evidence", Status: evidence.StageRunning},
	}}
	sum, err := ev.Stages.Hash()
	check(t, err)
	ev.Claims.StagesSHA256 = &sum
	w.Requote(t, ev)
}

// Requote replaces the quote by one over what the evidence now says, as a
// machine that really measured it would make.
func (w *World) Requote(t T, ev *evidence.Evidence) {
	helper(t)
	q, err := ev.Claims.QualifyingData()
	check(t, err)
	l, err := eventlog.ParseTPM(ev.CPU.EventLog)
	check(t, err)
	replayed, err := l.Replay(eventlog.SHA256)
	check(t, err)
	regs := pcr.Values{}
	for n, v := range replayed {
		regs[n] = digest.SHA256(v)
	}
	var events [][]byte
	for _, e := range ev.CPU.RuntimeEvents {
		b, err := e.Bytes()
		check(t, err)
		events = append(events, b)
	}
	regs[pcr.RuntimeConfig] = pcr.Runtime(events)
	ev.CPU.Quote, ev.CPU.Signature = w.TPM.Quote(t, q, regs)
}
