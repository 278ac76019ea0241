package demo

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cocoon/client"
	"cocoon/image/info"
	"cocoon/internal/fault"
	"cocoon/internal/heldport"
	"cocoon/internal/jcs"
	"cocoon/internal/registrysource"
	"cocoon/internal/toolstree"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
)

// diskNeed is what a run writes at most, beside the tools tree.
const diskNeed = 3 << 30

// Options of a run.
type Options struct {
	Root   string // of the repository
	Out    string // directory for what is kept; emptied first
	Bin    string // directory of the project's programs
	Prompt string
	Stdout io.Writer
	Clock  func() time.Time // nil means time.Now
}

// Files that a run keeps, in Options.Out.
const (
	fileReport    = "report.json"
	fileManifest  = "manifest.dsse.json"
	fileMeasure   = "measure.json"
	fileVPolicy   = "verifier-policy.json"
	fileCPolicy   = "client-policy.json"
	fileConfig    = "config.json"
	fileEvidence  = "evidence.json"
	fileVerdict   = "verdict.json"
	fileVKey      = "verifier-key.hex"
	fileLogKey    = "verifier-log.pub"
	fileEnrolment = "enrolment-refusal.json"
	dirRefusals   = "refusals"
	dirLogs       = "logs"
)

// modelName is what the model is called in config, manifest and registry.
const modelName = "chat"

// Addresses at which the guest reaches the services of the demo.
const (
	guestGateway  = "10.0.2.100:443"
	guestVerifier = "10.0.2.101:80"
)

// run is the state of one demo.
type run struct {
	Options
	*steps
	work  string // what is not kept: changed images, keys, VM directories
	tools toolstree.Tree
	packs info.Packs
	rep   Report

	manifestHash digest.SHA256
	verifierAddr string
	gatewayAddr  string
	archive      string
	verifierKey  digest.SHA256
	trust        *client.Trust
	host         *host
	chain        *chainParts
	services     []*service
	closers      []func() error

	bootStart                time.Time
	worker                   digest.SHA256 // receipt key of the unchanged run
	policyHash               digest.SHA256 // under which the verdict was made
	rootExpected, rootActual string        // the changed block's hashes
	rootVerity               digest.SHA256 // of the changed root file system
}

// Run runs the demo. It ends with nothing left running, whatever happens.
func Run(ctx context.Context, opt Options) error {
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	if os.Geteuid() != 0 {
		return fault.New(fault.ExitNotReady, "demo.not_root", "run: sudo make demo", "the demo builds an image, which needs root")
	}
	r := &run{Options: opt, steps: newSteps(opt.Stdout, opt.Clock), work: opt.Out + ".work"}
	lock, err := lockDir(opt.Out)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := errors.Join(emptyDir(opt.Out), emptyDir(r.work), os.MkdirAll(r.keep(dirLogs), 0o755)); err != nil {
		return fault.New(fault.ExitInternal, "demo.output", "choose another directory with --out", "preparing %s: %w", opt.Out, err)
	}
	if err := checkSpace(opt.Out, diskNeed); err != nil {
		return err
	}
	err = r.all(ctx)
	r.end()
	r.stop()
	if err != nil {
		return fmt.Errorf("step %q: %w", r.last, err)
	}
	if err := os.RemoveAll(r.work); err != nil {
		return fmt.Errorf("cleaning up: %w", err)
	}
	return nil
}

// emptyDir removes what is in dir, not dir itself: the lock lies beside it.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := os.RemoveAll(filepath.Join(dir, n.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) keep(elem ...string) string { return filepath.Join(append([]string{r.Out}, elem...)...) }
func (r *run) temp(elem ...string) string { return filepath.Join(append([]string{r.work}, elem...)...) }

// stop ends every service, last started first.
func (r *run) stop() {
	for _, c := range r.closers {
		_ = c() // connections to services that end now
	}
	for i := len(r.services) - 1; i >= 0; i-- {
		r.services[i].stop()
	}
	r.services, r.closers = nil, nil
}

func (r *run) all(ctx context.Context) error {
	for _, f := range []func(context.Context) error{
		r.image, r.startLedger, r.startHost, r.measurements, r.startVerifier, r.startGateway,
		r.boot, r.openJob, r.chat, r.settle, r.liveEvidence, r.refusals, r.contractRefusals, r.summary,
	} {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// command runs one of the project's programs to its end and returns what it
// printed; its complaints become part of the error.
func (r *run) command(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(r.Bin, name), args...)
	cmd.Dir = r.Root
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fault.New(fault.ExitInternal, "demo.command", "run it by hand to see more",
			"running %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.Bytes(), nil
}

func (r *run) service(name, bin string, args ...string) (*service, error) {
	s, err := startService(r.keep(dirLogs), name, filepath.Join(r.Bin, bin), args...)
	if err != nil {
		return nil, err
	}
	r.services = append(r.services, s)
	return s, nil
}

func (r *run) image(ctx context.Context) error {
	r.begin("image", "build the confidential-VM image, the engine's and the model's packs")
	cmd := exec.CommandContext(ctx, "make", "-s", "-C", r.Root, "image")
	cmd.Stdout = &indent{w: r.Stdout}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		return fault.New(fault.ExitInternal, "demo.image", "run make image by hand", "building image: %w", err)
	}
	var err error
	if r.packs, err = info.LoadPacks(r.packsDir()); err != nil {
		return err
	}
	r.tools, err = toolstree.Find()
	return err
}

func (r *run) imageDir() string { return filepath.Join(r.Root, "build", "image") }
func (r *run) packsDir() string { return filepath.Join(r.Root, "build", "packs") }

func (r *run) measurements(ctx context.Context) error {
	r.begin("measurements", "compute what the firmware will measure, write the manifest")
	key := r.temp("manifest.key")
	if _, err := r.command(ctx, "cocoon", "measure", "key", "--out", key); err != nil {
		return err
	}
	args := []string{"measure", "--image", r.imageDir(), "--packs", r.packsDir(), "--firmware", r.tools.OVMF(), "--key", key, "-o", r.keep(fileManifest), "--json"}
	args = append(args, "--network-id", fmt.Sprint(r.chain.id), "--registry", r.chain.registry.String())
	recorded, err := r.recordFirmware(ctx)
	if err != nil {
		return err
	}
	out, err := r.command(ctx, "cocoon", append(args, recorded...)...)
	if err != nil {
		return err
	}
	var m struct {
		Manifest digest.SHA256 `json:"manifest_sha256"`
	}
	if err := json.Unmarshal(out, &m); err != nil {
		return fmt.Errorf("reading measurements: %w", err)
	}
	r.manifestHash, r.rep.ManifestSHA256 = m.Manifest, m.Manifest
	r.note("manifest %s", m.Manifest)
	return writeFile(r.keep(fileMeasure), out)
}

// recordFirmware boots a firmware that has no recorded PCR 0 and 7, as
// happens when the pinned one is gone, and records them.
func (r *run) recordFirmware(ctx context.Context) ([]string, error) {
	known, err := firmwareRecorded(r.tools.OVMF())
	if err != nil || known {
		return nil, err
	}
	r.note("firmware is new: recording its PCR 0 and 7 in a boot of its own")
	file := r.keep("recorded.json")
	_, err = r.command(ctx, "cocoon", "measure", "record", "--firmware", r.tools.OVMF(), "--image", r.imageDir(), "-o", file)
	return []string{"--recorded", file}, err
}

func (r *run) startVerifier(ctx context.Context) error {
	r.begin("verifier", "start cocoon-verifier with the manifest and a development policy")
	dir := r.temp("verifier")
	out, err := r.command(ctx, "cocoon-verifier", "keygen", "--dir", dir)
	if err != nil {
		return err
	}
	if r.verifierKey, err = digest.Parse256(strings.TrimSpace(string(out))); err != nil {
		return fmt.Errorf("reading the verifier's key: %w", err)
	}
	ekRoot, err := r.host.ekRoot("default")
	if err != nil {
		return err
	}
	akRoot, err := readPEM(filepath.Join(dir, "ak-ca.crt"))
	if err != nil {
		return err
	}
	p := &policy.Policy{
		Format: policy.Format, Name: "demo", Environment: policy.Development, TrustClasses: []string{policy.ClassVTPM},
		Manifests: policy.Manifests{Hashes: []digest.SHA256{}, Keys: []digest.SHA256{}, Revoked: []digest.SHA256{},
			Registry: &policy.Registry{Address: r.chain.registry.String(), NetworkID: r.chain.id, MaxAgeSeconds: 3600}},
		TPM:       &policy.TPM{EKRoots: [][]byte{}, DevelopmentEKRoots: [][]byte{ekRoot}, AKRoots: [][]byte{akRoot}},
		Freshness: policy.Freshness{RequireChallenge: true, VerdictSeconds: 3600},
	}
	if err := writeCanonical(r.keep(fileVPolicy), p); err != nil {
		return err
	}
	// The client's freshness comes from the connection: it is no contributor
	// to this quote's nonce.
	own := *p
	own.Name, own.Freshness.RequireChallenge = "demo client", false
	if err := writeCanonical(r.keep(fileCPolicy), &own); err != nil {
		return err
	}
	if err := writeFile(r.keep(fileVKey), []byte(r.verifierKey.String()+"\n")); err != nil {
		return err
	}
	hash, err := p.Hash()
	if err != nil {
		return err
	}
	if err := r.publish(ctx, hash); err != nil {
		return err
	}
	return r.runVerifier(ctx, dir, &own)
}

func (r *run) runVerifier(ctx context.Context, dir string, clientPolicy *policy.Policy) error {
	port, err := heldport.Hold("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer port.Release()
	r.verifierAddr, r.archive = port.String(), filepath.Join(dir, "archive")
	cfg := map[string]any{
		"listen": r.verifierAddr, "policy": r.keep(fileVPolicy), "manifests": []string{r.keep(fileManifest)},
		"signing_key": filepath.Join(dir, "verifier.key"), "archive": r.archive,
		"ledger":  map[string]any{"config": r.keep(fileTON)},
		"journal": map[string]any{"dir": filepath.Join(dir, "journal"), "origin": logOrigin, "key": filepath.Join(dir, "journal.key")},
		"ak_ca":   map[string]any{"certificate": filepath.Join(dir, "ak-ca.crt"), "key": filepath.Join(dir, "ak-ca.key")},
	}
	if err := r.keepLogKey(filepath.Join(dir, "journal.key")); err != nil {
		return err
	}
	cfgFile := filepath.Join(dir, "verifier.yaml")
	if err := writeJSON(cfgFile, cfg); err != nil {
		return err
	}
	s, err := r.service("verifier", "cocoon-verifier", "--config", cfgFile)
	if err != nil {
		return err
	}
	if err := s.waitHealthy(ctx, http.DefaultClient, "http://"+r.verifierAddr+"/healthz", time.Minute); err != nil {
		return err
	}
	env, err := os.ReadFile(r.keep(fileManifest))
	if err != nil {
		return fmt.Errorf("reading manifest: %w", err)
	}
	src, err := registrysource.Open(r.keep(fileTON), clientPolicy.Manifests.Registry, nil)
	if err != nil {
		return err
	}
	r.closers = append(r.closers, src.Close)
	r.trust = &client.Trust{Policy: clientPolicy, Manifests: []manifest.Published{{Envelope: env}}, Registry: src.State, Clock: r.Clock}
	r.note("policy %q: %s", "demo", Notice)
	return nil
}

func (r *run) startGateway(ctx context.Context) error {
	r.begin("gateway", "start cocoon-gateway, the blind relay")
	port, err := heldport.Hold("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer port.Release()
	r.gatewayAddr = port.String()
	cfg := r.temp("gateway.json")
	if err := writeJSON(cfg, map[string]any{"listen": r.gatewayAddr}); err != nil {
		return err
	}
	s, err := r.service("gateway", "cocoon-gateway", "--config", cfg)
	if err != nil {
		return err
	}
	return s.waitHealthy(ctx, insecureClient(), "https://"+r.gatewayAddr+"/healthz", 30*time.Second)
}

// guestConfig returns the config of the unchanged run.
func (r *run) guestConfig() (*evidence.Config, error) {
	enginePack, err := packVerity(r.packs, "engine")
	if err != nil {
		return nil, err
	}
	modelPack, err := packVerity(r.packs, "model")
	if err != nil {
		return nil, err
	}
	c := &evidence.Config{
		Version: 1, Role: evidence.RoleWorker,
		Model:  evidence.ConfigModel{Name: modelName, Verity: modelPack},
		Engine: evidence.ConfigEngine{Kind: evidence.EngineLlamaServer, Verity: enginePack, Args: []string{"--ctx-size", "4096", "--parallel", "2", "--threads", "1"}},
		GPUs:   evidence.ConfigGPUs{Mode: evidence.GPUModeNone}, NetworkID: r.chain.id, Registry: r.chain.registry.String(),
	}
	return c, c.Validate()
}

func packVerity(p info.Packs, name string) (evidence.Verity, error) {
	pk, err := p.Find(name)
	if err != nil {
		return evidence.Verity{}, err
	}
	var v evidence.Verity
	root, err1 := digest.Parse256(pk.Verity.Root)
	salt, err2 := digest.Parse256(pk.Verity.Salt)
	v.Root, v.Salt, v.DataBlocks = root, salt, pk.Verity.DataBlocks
	return v, errors.Join(err1, err2)
}

func readPEM(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading certificate: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("reading certificate: %s is not PEM", path)
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("reading certificate: %w", err)
	}
	return block.Bytes, nil
}

func writeCanonical(path string, v any) error {
	b, err := jcs.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(path, b)
}

// openManifest opens the kept manifest by the hash that the run found.
func openManifest(env []byte, hash digest.SHA256) (*manifest.Verified, error) {
	return manifest.Open(env, manifest.Trust{Hashes: []digest.SHA256{hash}})
}
