package main

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/internal/keyfile"
	"cocoon/internal/toolstree"
	"cocoon/measurements/digest"
	"cocoon/measurements/launch"
	"cocoon/measurements/manifest"
	"cocoon/measurements/pcr"
	"cocoon/measurements/tdvf"
	"cocoon/verifier/evidence"
)

// measureFlags are the flags of "cocoon measure".
type measureFlags struct {
	image, packs string
	firmwares    []string
	recorded     []string
	release      string
	config       string
	keys         []string
	networkID    int32
	registry     string
	out          string
	json         bool
	buildFlags
}

// buildFlags are those that only a release needs.
type buildFlags struct {
	locks      []string
	used       string
	snp        []string
	supersedes []string
	models     []string
	maxVCPUs   int
}

func newMeasureCmd() *cobra.Command {
	f := &measureFlags{}
	cmd := &cobra.Command{
		Use:   "measure --image DIR --packs DIR --firmware FILE",
		Short: "compute what a TEE will report for an image, and write its manifest",
		Long: `Computes from the files of a build what the firmware measures at a direct boot,
and writes the manifest: the published measurements that verifiers and clients
hold evidence against. Every hash is taken from the files themselves; image.json
and packs.json are checked against them.

PCR 2 to 6, 8, 9 and 11 to 14 are computed. PCR 0 and 7 are computed from the
firmware file, or recorded for it. PCR 1 depends on the host and is only reported. PCR 15 follows
from a config (--config).`,
		Example: `  cocoon measure --image build/image --packs build/packs --firmware OVMF.fd
  cocoon measure --image build/image --packs build/packs --firmware OVMF.fd --key release.key -o manifest.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runMeasure(cmd, f) },
	}
	f.register(cmd)
	fs := cmd.Flags()
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	fs.StringVar(&f.config, "config", "", "guest config `file`: compute PCR 15 for it")
	fs.StringArrayVar(&f.keys, "key", nil, "sign with the Ed25519 key in this `file`; may be repeated")
	fs.StringVarP(&f.out, "out", "o", "", "write the manifest, a DSSE envelope, to this `file`")
	cmd.AddCommand(newMeasureKeyCmd(), newMeasureRecordCmd(), newMeasureMRTDCmd(), newMeasureRTMRCmd(), newMeasureSNPCmd(), newMeasurePCRCmd(),
		newMeasureImageCmd(), newMeasureExplainCmd(), newMeasureDiffCmd())
	return cmd
}

// register declares the flags that say what a manifest is computed from.
func (f *measureFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.image, "image", "", "`directory` of the image (vmlinuz, initrd, root.img, cmdline, image.json)")
	fs.StringVar(&f.packs, "packs", "", "`directory` of the engine's and the model's packs (packs.json)")
	fs.StringArrayVar(&f.firmwares, "firmware", nil, "firmware `file` that may boot the image; may be repeated")
	fs.StringArrayVar(&f.recorded, "recorded", nil, "`file` with recordings of firmware, beside those that are built in; may be repeated")
	fs.StringVar(&f.release, "release", "", "`file` with the release rules; without it those that are built in")
	fs.Int32Var(&f.networkID, "network-id", 0, "allow configs for this TON network `id`, beside those of the release rules (with --registry)")
	fs.StringVar(&f.registry, "registry", "", "allow configs that name this registry `address`, beside those of the release rules")
	fs.StringArrayVar(&f.snp, "snp-firmware", nil, "firmware `file` that may boot the image under SEV-SNP; it must check kernel, initrd and command line against the measured hashes, as OVMF's AmdSev build does; without it "+toolstree.SEVFile+" beside a --firmware file, where it is there; may be repeated; "+noSNP+" leaves SEV-SNP out")
	fs.StringArrayVar(&f.locks, "lock", nil, "`file` that fixes what the build takes, named among its inputs; may be repeated")
	fs.StringVar(&f.used, "used", "", "`file` in which the build says what it took (tools.used.json): its packages become inputs")
	fs.StringArrayVar(&f.models, "model", nil, modelUsage)
	fs.StringArrayVar(&f.supersedes, "supersedes", nil, "`HASH=TIME`: until when an earlier manifest of this image is accepted beside this one; may be repeated")
	fs.IntVar(&f.maxVCPUs, "max-vcpus", 512, "`number` of vCPUs up to which launch digests of SEV-SNP are accepted")
	for _, name := range []string{"image", "packs", "firmware"} {
		_ = cmd.MarkFlagRequired(name)
	}
	cmd.MarkFlagsRequiredTogether("network-id", "registry")
}

// newMeasureKeyCmd makes a key that signs manifests.
func newMeasureKeyCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "key --out FILE",
		Short: "make an Ed25519 key that signs manifests, and print its public key",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			public, key, err := ed25519.GenerateKey(nil)
			if err == nil {
				err = keyfile.Write(out, key)
			}
			if err != nil {
				return fault.New(fault.ExitInternal, "measure.key", "choose a file that does not exist yet", "making key: %w", err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), hex.EncodeToString(public))
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "new `file` for the private key")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

// measureReport is what "cocoon measure --json" writes.
type measureReport struct {
	Manifest   digest.SHA256          `json:"manifest_sha256"`
	Image      manifest.Image         `json:"image"`
	Root       digest.SHA256          `json:"root_verity"`
	Components pcr.Components         `json:"components"`
	Firmwares  []manifest.TPMFirmware `json:"firmwares"`
	TDX        *manifest.TDX          `json:"tdx,omitempty"`
	SNP        *manifest.SNP          `json:"snp,omitempty"`
	Engine     digest.SHA256          `json:"engine_image_digest"`
	Model      manifest.Model         `json:"model"`
	Models     []manifest.Model       `json:"models,omitempty"` // that are allowed beside it
	Sunset     time.Time              `json:"sunset"`
	Config     *digest.SHA256         `json:"config_sha256,omitempty"`
	PCR15      *digest.SHA256         `json:"pcr15,omitempty"`
	Signers    []string               `json:"signers"`
}

func runMeasure(cmd *cobra.Command, f *measureFlags) error {
	m, err := f.build()
	if err != nil {
		return err
	}
	payload, err := m.Payload()
	if err != nil {
		return err
	}
	rep := &measureReport{
		Manifest: digest.Sum256(payload), Image: m.Image, Root: m.Boot.RootVerity, TDX: m.TDX, SNP: m.SNP,
		Engine: m.Engines[0].ImageDigest, Model: m.Models[0], Models: m.Models[1:], Sunset: m.Sunset, Signers: []string{},
	}
	if m.TPM != nil {
		rep.Components, rep.Firmwares = m.TPM.Components, m.TPM.Firmwares
	}
	if f.config != "" {
		if err := rep.addConfig(f.config); err != nil {
			return err
		}
	}
	var keys []ed25519.PrivateKey
	for _, path := range f.keys {
		k, err := keyfile.ReadEd25519(path)
		if err != nil {
			return fault.New(fault.ExitInternal, "measure.key", "make one with cocoon measure key", "%w", err)
		}
		keys = append(keys, k)
		rep.Signers = append(rep.Signers, hex.EncodeToString(k.Public().(ed25519.PublicKey)))
	}
	if f.out != "" {
		env, err := manifest.Sign(m, keys...)
		if err != nil {
			return err
		}
		if err := os.WriteFile(f.out, append(env, '\n'), 0o644); err != nil {
			return fault.New(fault.ExitInternal, "file.unwritable", "check the path", "writing manifest: %w", err)
		}
	}
	if f.json {
		return writeJSON(cmd.OutOrStdout(), rep)
	}
	return rep.write(cmd.OutOrStdout(), f.out)
}

func (r *measureReport) addConfig(path string) error {
	h, raw, err := readRuntime(path)
	if err != nil {
		return err
	}
	v := pcr.Runtime(raw)
	r.Config, r.PCR15 = &h, &v
	return nil
}

// readRuntime reads a guest config and returns its hash and the events that a
// supervisor with it records.
func readRuntime(path string) (digest.SHA256, [][]byte, error) {
	doc, err := readInput("--config", path, evidence.MaxConfig)
	if err != nil {
		return digest.SHA256{}, nil, err
	}
	canonical, err := jcs.Canonical(doc)
	var c *evidence.Config
	if err == nil {
		c, err = evidence.ParseConfig(canonical)
	}
	if err != nil {
		return digest.SHA256{}, nil, fault.New(fault.ExitParse, "config.parse", "correct the config", "reading --config: %w", err)
	}
	h, err := c.Hash()
	if err != nil {
		return digest.SHA256{}, nil, err
	}
	events, err := evidence.RuntimeEvents(c)
	if err != nil {
		return digest.SHA256{}, nil, err
	}
	var raw [][]byte
	for _, e := range events {
		b, err := e.Bytes()
		if err != nil {
			return digest.SHA256{}, nil, err
		}
		raw = append(raw, b)
	}
	return h, raw, nil
}

// write writes the report for a person.
func (r *measureReport) write(w io.Writer, out string) error {
	var err error
	line := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format+"\n", args...)
		}
	}
	line("manifest  %s", r.Manifest)
	line("image     %s version %d, until %s", r.Image.Name, r.Image.Version, r.Sunset.Format(time.DateOnly))
	line("kernel    %s (Authenticode)", r.Components.KernelAuthenticodeSHA256)
	line("initrd    %s", r.Components.InitrdSHA256)
	line("root      %s (dm-verity)", r.Root)
	line("engine    %s (dm-verity)", r.Engine)
	for _, k := range append([]manifest.Model{r.Model}, r.Models...) {
		line("model     %s %s (dm-verity)", k.VerityRoot, k.Name)
	}
	for _, f := range r.Firmwares {
		line("firmware  %s %s", f.SHA256, plain(f.Name))
		for _, n := range f.PCRs.Numbers() {
			how := "computed"
			if n == pcr.Firmware0 || n == pcr.SecureBoot {
				how = f.Provenance
			}
			line("  PCR %-2d  %s %s", n, f.PCRs[n], how)
		}
		line("  PCR 1   depends on the host: reported only")
	}
	if r.TDX != nil {
		for _, f := range r.TDX.Firmwares {
			line("firmware  %s %s, TDX", f.SHA256, plain(f.Name))
			for _, d := range f.MRTD {
				line("  MRTD   %s computed", d)
			}
			line("  RTMR1  %s computed", f.RTMR1.Value)
			line("  RTMR2  %s computed", f.RTMR2.Value)
			line("  RTMR0  %d events, some of the host: held against the event log", len(f.RTMR0.Events))
		}
	}
	if r.SNP != nil {
		for _, f := range r.SNP.Firmwares {
			line("firmware  %s %s, SEV-SNP: any of %d vCPU models, 1 to %d vCPUs", f.SHA256, plain(f.Name), len(f.Shapes), f.MaxVCPUs)
		}
	}
	if r.PCR15 != nil {
		line("config    %s", r.Config)
		line("  PCR 15  %s computed", r.PCR15)
	}
	switch {
	case out != "" && len(r.Signers) == 0:
		line("wrote %s, unsigned: a policy can accept it by its hash only", plain(out))
	case out != "":
		line("wrote %s, signed by %d key(s)", plain(out), len(r.Signers))
	}
	return err
}

// build reads everything that the flags name and computes the manifest.
func (f *measureFlags) build() (*manifest.Manifest, error) {
	in, err := readBuild(f.image, f.packs)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "measure.build", "build the image and the packs again", "reading build: %w", err)
	}
	if err := f.readFirmwares(in); err != nil {
		return nil, err
	}
	if err := f.readLocks(in); err != nil {
		return nil, err
	}
	if in.Supersedes, err = f.readSupersedes(); err != nil {
		return nil, err
	}
	if in.Models, err = f.readModels(); err != nil {
		return nil, err
	}
	rules, err := manifest.DefaultRelease()
	if f.release != "" {
		var doc []byte
		if doc, err = readInput("--release", f.release, manifest.MaxRelease); err != nil {
			return nil, err
		}
		rules, err = manifest.ParseRelease(doc)
	}
	if err != nil {
		return nil, fault.New(fault.ExitParse, "measure.release", "correct the release rules", "%w", err)
	}
	if f.registry != "" {
		rules.Config.NetworkIDs = addTo(rules.Config.NetworkIDs, f.networkID)
		rules.Config.Registries = addTo(rules.Config.Registries, f.registry)
	}
	in.Release = *rules
	m, err := manifest.Build(*in)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "measure.manifest", "build the image again, or correct the release rules", "%w", err)
	}
	return m, nil
}

func addTo[T comparable](list []T, v T) []T {
	for _, w := range list {
		if w == v {
			return list
		}
	}
	return append(list, v)
}

// readFirmwares reads the firmware files: what is recorded of them for a TPM,
// and what follows from them for TDX and SEV-SNP.
func (f *measureFlags) readFirmwares(in *manifest.Inputs) error {
	rec, err := pcr.Recorded()
	if err != nil {
		return err
	}
	for _, path := range f.recorded {
		doc, err := readInput("--recorded", path, pcr.MaxRecorded)
		if err != nil {
			return err
		}
		more, err := pcr.ParseRecordings(doc)
		if err != nil {
			return fault.New(fault.ExitParse, "measure.recorded", "record the firmware again", "%w", err)
		}
		rec = rec.With(more)
	}
	image, err := launch.ReadImage(in.Files.Kernel, in.Files.Initrd, in.Files.Cmdline)
	if err != nil {
		return fault.New(fault.ExitParse, "measure.build", "build the image again", "%w", err)
	}
	forSNP, err := f.snpFirmwares()
	if err != nil {
		return err
	}
	var tdx, snp []*launch.Firmware
	var errs []error
	for i, path := range slices.Concat(f.firmwares, forSNP) {
		b, err := readInput("--firmware", path, maxFirmware)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		a := manifest.Artifact{Name: "firmware/" + filepath.Base(path), SHA256: digest.Sum256(b), Size: int64(len(b))}
		if !slices.Contains(in.Inputs, a) {
			in.Inputs = append(in.Inputs, a)
		}
		l, err := launch.ReadFirmware(firmwareName(path), b)
		if err == nil {
			err = l.Validate()
		}
		if i >= len(f.firmwares) {
			// Metadata cannot tell whether a firmware checks the hashes that are
			// measured, so the publisher says so by the flag.
			if err == nil && l.SNP == nil {
				err = errors.New("it has no SEV metadata")
			}
			if err != nil {
				errs = append(errs, fault.New(fault.ExitParse, "measure.snp", "give OVMF's AmdSev build", "reading --snp-firmware %s: %w", path, err))
			}
			snp = append(snp, l)
			continue
		}
		forTDX := err == nil && l.TDX != nil
		if forTDX {
			tdx = append(tdx, l)
		}
		// A firmware may be for TDX alone.
		switch fw, err := findFirmware(rec, path); {
		case err == nil:
			in.Firmwares = append(in.Firmwares, fw)
		case !forTDX || !fault.Has(err, "measure.firmware_unknown"):
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if in.TDX, err = manifest.NewTDX(image, tdx); err != nil {
		return fault.New(fault.ExitParse, "measure.tdx", "give other firmware", "%w", err)
	}
	if in.SNP, err = manifest.NewSNP(image, snp, f.maxVCPUs); err != nil {
		return fault.New(fault.ExitParse, "measure.snp", "give other firmware", "%w", err)
	}
	return nil
}

// noSNP is the value of --snp-firmware that leaves SEV-SNP out.
const noSNP = "none"

// snpFirmwares returns the files of --snp-firmware; without the flag those
// that lie beside the other firmware under the name of OVMF's AmdSev build.
func (f *measureFlags) snpFirmwares() ([]string, error) {
	if slices.Contains(f.snp, noSNP) {
		if len(f.snp) > 1 {
			return nil, usage("reading --snp-firmware: %s stands alone", noSNP)
		}
		return nil, nil
	}
	if len(f.snp) > 0 {
		return f.snp, nil
	}
	var out []string
	for _, path := range f.firmwares {
		beside := filepath.Join(filepath.Dir(path), toolstree.SEVFile)
		switch _, err := os.Stat(beside); {
		case errors.Is(err, fs.ErrNotExist) || slices.Contains(out, beside) || slices.Contains(f.firmwares, beside):
		case err != nil:
			return nil, fault.New(fault.ExitInternal, "file.unreadable", "check the path", "looking for firmware: %w", err)
		default:
			out = append(out, beside)
		}
	}
	return out, nil
}

// readSupersedes reads the graces of earlier manifests.
func (f *measureFlags) readSupersedes() ([]manifest.Superseded, error) {
	var out []manifest.Superseded
	for _, s := range f.supersedes {
		hash, at, _ := strings.Cut(s, "=")
		d, err := digest.Parse256(hash)
		if err != nil {
			return nil, usage("reading --supersedes %.80q: want the earlier manifest's hash, =, and a time", s)
		}
		until, err := parseAt(at)
		if err != nil || at == "" {
			return nil, usage("reading --supersedes %.80q: want a time, RFC 3339, behind the =", s)
		}
		out = append(out, manifest.Superseded{Manifest: d, GraceUntil: until.Truncate(time.Second)})
	}
	return out, nil
}

// findFirmware returns a firmware's registers: as recorded, else computed from
// the file. Where both are to be had they must agree.
func findFirmware(rec *pcr.Recordings, path string) (pcr.Firmware, error) {
	b, err := readInput("--firmware", path, tdvf.MaxSize)
	if err != nil {
		return pcr.Firmware{}, err
	}
	recorded, missing := rec.Find(digest.Sum256(b))
	parts, err := launch.ReadFirmware(firmwareName(path), b)
	if err == nil {
		computed, cerr := pcr.Compute(parts)
		if err = cerr; err == nil && missing != nil {
			return computed, nil
		}
		if err == nil && (computed.PCR0 != recorded.PCR0 || computed.PCR7 != recorded.PCR7) {
			return pcr.Firmware{}, fault.Mismatch(fault.ExitRefused, "measure.firmware_differs", "PCR 0 and 7 of "+path, computed.PCR0.String()+" "+computed.PCR7.String(),
				recorded.PCR0.String()+" "+recorded.PCR7.String(), "record it again with cocoon measure record; the recording is of another machine or not to be trusted")
		}
	}
	if missing != nil {
		return pcr.Firmware{}, fault.New(fault.ExitNotReady, "measure.firmware_unknown", "record what it measures with cocoon measure record, and give the file with --recorded",
			"measuring firmware %s: %w", path, errors.Join(missing, err))
	}
	return recorded, nil
}
