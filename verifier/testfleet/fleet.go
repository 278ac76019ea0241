// Package testfleet has machines of every kind under the test authorities of
// packages tdxtest, snptest and nvgputest, with the manifest and the policy
// that accept them: for tools and tests that need evidence bound to live
// challenges. A seed goes in; the same keys and the same manifest come out of
// it every time, so that a verifier can be configured for a fleet before it
// exists, and nothing of it is worth anything.
package testfleet

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"cocoon/internal/bootargs"
	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/manifest"
	"cocoon/measurements/snp"
	"cocoon/measurements/tdvf"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgputest"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/dcap"
	"cocoon/verifier/policy/nvgpu"
	snppolicy "cocoon/verifier/policy/snp"
	"cocoon/verifier/quote"
	"cocoon/verifier/snptest"
	"cocoon/verifier/tdxtest"
)

// ExampleSeed is the seed of the fleet that examples/verifier.yaml accepts.
const ExampleSeed = "example"

// Kinds of machines.
const (
	TDX = "tdx" // a TD without GPU, its collateral in the evidence
	SNP = "snp" // an SNP guest without GPU
	GPU = "gpu" // an SNP guest with one Hopper GPU, its RIMs and OCSP responses in the evidence
)

// Kinds returns all kinds.
func Kinds() []string { return []string{TDX, SNP, GPU} }

// Fleet has the authorities and the image of its machines.
type Fleet struct {
	seed     string
	tdx      *tdxtest.PKI
	snp      *snptest.PKI
	gpu      *nvgputest.PKI
	key      ed25519.PrivateKey
	cmdline  string
	kernel   *snp.Kernel
	firmware snp.Firmware
	manifest *manifest.Manifest
}

// New makes the fleet of a seed.
func New(seed string) (*Fleet, error) {
	f := &Fleet{seed: seed}
	k := f.sum("manifest key")
	f.key = ed25519.NewKeyFromSeed(k[:])
	var err error
	if f.tdx, err = tdxtest.New(seed); err != nil {
		return nil, err
	}
	if f.snp, err = snptest.New(seed); err != nil {
		return nil, err
	}
	if f.gpu, err = nvgputest.New(seed); err != nil {
		return nil, err
	}
	f.cmdline = bootargs.Root{Hash: f.sum("root"), Salt: []byte("salt"), Blocks: 1000}.String()
	f.kernel = snp.HashKernel([]byte("kernel"), []byte("initrd"), f.cmdline)
	f.firmware = snp.Firmware{Digest: digest.Sum384([]byte("firmware")), HashGPA: 0x810c00, ResetEIP: 0x80b004, Sections: []tdvf.SEVSection{
		{Type: tdvf.SEVMemory, GPA: 0x800000, Size: 0x9000}, {Type: tdvf.SEVKernelHashes, GPA: 0x810000, Size: 0x1000}}}
	return f, f.makeManifest()
}

func (f *Fleet) sum(what string) digest.SHA256 {
	return digest.Sum256([]byte("cocoon testfleet\x00" + f.seed + "\x00" + what))
}

// TDXPKI returns the authorities of the TDs.
func (f *Fleet) TDXPKI() *tdxtest.PKI { return f.tdx }

// SNPPKI returns the authorities of the SNP guests.
func (f *Fleet) SNPPKI() *snptest.PKI { return f.snp }

// GPUPKI returns the authorities of the GPUs.
func (f *Fleet) GPUPKI() *nvgputest.PKI { return f.gpu }

// events returns the event log of the fleet's TDs.
func (f *Fleet) events() ([]tdxtest.CCEvent, error) {
	log := tdxtest.DirectBoot()
	options, err := boot.LoadOptions(boot.CmdlineInitrdFirst, f.cmdline)
	if err != nil {
		return nil, fmt.Errorf("making event log: %w", err)
	}
	for i := range log {
		if log[i].Of == "command line" {
			log[i].Of = string(options)
		}
	}
	return log, nil
}

func (f *Fleet) makeManifest() error {
	log, err := f.events()
	if err != nil {
		return err
	}
	rules, err := manifest.DefaultRelease()
	if err != nil {
		return err
	}
	rules.Config.GPUModes = []string{evidence.GPUModeNone, "on"}
	register := func(n uint32, names ...string) manifest.Register {
		r := manifest.Register{Events: []manifest.Event{}}
		for _, e := range log {
			if e.Register != n {
				continue
			}
			ev := manifest.Event{Name: names[len(r.Events)], Type: e.Type.String(), Digest: digest.Sum384([]byte(e.Of))}
			if e.Type == eventlog.EFIVariableDriverConf {
				ev.Digest, ev.Host = digest.SHA384{}, true
			}
			r.Events = append(r.Events, ev)
		}
		if v, ok := r.Fixed(); ok {
			r.Value = &v
		}
		return r
	}
	td := tdxtest.DefaultTDX(4, quote.BodyTD10).TD
	f.manifest = &manifest.Manifest{
		Format: manifest.Format, Image: manifest.Image{Name: "test-fleet", Version: 1, Profile: "cpu", SourceDate: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)},
		Artifacts: []manifest.Artifact{{Name: "image/vmlinuz", SHA256: f.sum("vmlinuz"), Size: 1}}, Inputs: []manifest.Artifact{},
		Boot: manifest.Boot{Cmdline: f.cmdline, RootVerity: f.sum("root")},
		TDX: &manifest.TDX{
			Components: manifest.TDXComponents{KernelAuthenticodeSHA384: digest.Sum384([]byte("kernel")), InitrdSHA384: digest.Sum384([]byte("initrd"))},
			Firmwares: []manifest.TDXFirmware{{Name: "test-tdvf", SHA256: f.sum("tdvf"), MRTD: []digest.SHA384{digest.SHA384(td.MRTD)},
				RTMR0: register(1, "cfv", "secure-boot", "separator"), RTMR1: register(2, manifest.EventKernel, "separator", "exit"),
				RTMR2: register(3, manifest.EventCmdline, manifest.EventInitrd)}},
		},
		SNP: &manifest.SNP{Components: *f.kernel, Firmwares: []manifest.SNPFirmware{{Name: "test-ovmf", SHA256: f.sum("ovmf"), Firmware: f.firmware, MaxVCPUs: 64,
			Shapes: []manifest.SNPShape{{VMM: snp.QEMU, VCPUType: "EPYC-Milan", Features: snp.DefaultFeatures}}}}},
		Engines: []manifest.Engine{{Kind: evidence.EngineLlamaServer, ImageDigest: f.sum("engine"), Args: rules.Args}},
		Config:  rules.Config, Models: []manifest.Model{{Name: "chat", VerityRoot: f.sum("model")}},
		GPUs: []manifest.GPUFloor{}, Supersedes: []manifest.Superseded{}, Sunset: time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC),
	}
	return f.manifest.Validate()
}

// Envelope returns the fleet's manifest, signed.
func (f *Fleet) Envelope() ([]byte, error) { return manifest.Sign(f.manifest, f.key) }

// Policy returns a development policy that accepts the fleet in trust classes,
// ClassTest where none is given.
func (f *Fleet) Policy(classes ...string) *policy.Policy {
	if len(classes) == 0 {
		classes = []string{policy.ClassTest}
	}
	return &policy.Policy{Format: policy.Format, Name: "example", Environment: policy.Development, TrustClasses: classes,
		Manifests: policy.Manifests{Hashes: []digest.SHA256{}, Keys: []digest.SHA256{digest.SHA256(f.key.Public().(ed25519.PublicKey))}, Threshold: 1, Revoked: []digest.SHA256{}},
		DCAP:      &dcap.Policy{TDX: &dcap.TDX{}}, SNP: snppolicy.Default(), NVGPU: nvgpu.Default(),
		Freshness: policy.Freshness{RequireChallenge: true, VerdictSeconds: policy.MaxVerdictSeconds}}
}

// Names of what Files returns.
const (
	FileManifest = "manifest.json"
	FilePolicy   = "policy.json"
	FileIntel    = "roots/intel.pem"
	FileAMD      = "roots/amd.pem"
	FileNVIDIA   = "roots/nvidia.pem" // of devices
	FileRIM      = "roots/nvidia-rim.pem"
)

// Files returns everything that a verifier is configured with to accept the
// fleet. AMD's authorities are not the same bytes every time, for their
// signatures have salts, but the same names and keys.
func (f *Fleet) Files() (map[string][]byte, error) {
	env, err := f.Envelope()
	if err != nil {
		return nil, err
	}
	p, err := json.MarshalIndent(f.Policy(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding policy: %w", err)
	}
	device, rim := f.gpu.RootPEMs()
	return map[string][]byte{FileManifest: append(env, '\n'), FilePolicy: append(p, '\n'),
		FileIntel: f.tdx.RootPEM(), FileAMD: f.snp.RootsPEM(), FileNVIDIA: device, FileRIM: rim}, nil
}

// config returns the config of a kind of machine.
func (f *Fleet) config(kind string) evidence.Config {
	verity := func(what string) evidence.Verity {
		return evidence.Verity{Root: f.sum(what), Salt: sha256.Sum256([]byte("salt")), DataBlocks: 10}
	}
	c := evidence.Config{Version: 1, Role: evidence.RoleWorker, Model: evidence.ConfigModel{Name: "chat", Verity: verity("model")},
		Engine: evidence.ConfigEngine{Kind: evidence.EngineLlamaServer, Verity: verity("engine"), Args: []string{"--ctx-size", "2048"}},
		GPUs:   evidence.ConfigGPUs{Mode: evidence.GPUModeNone}}
	if kind == GPU {
		c.GPUs = evidence.ConfigGPUs{Count: 1, Mode: "on"}
	}
	return c
}
