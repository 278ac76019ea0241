package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/internal/toolstree"
	"cocoon/measurements/audit"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
	"cocoon/measurements/manifest"
	"cocoon/measurements/release"
)

// releaseFlags are the flags of "cocoon release".
type releaseFlags struct {
	measureFlags
	snpFirmware []string
	log, logKey string
}

func newReleaseCmd() *cobra.Command {
	f := &releaseFlags{}
	cmd := &cobra.Command{
		Use:   "release DIR --key FILE --log DIR --log-key FILE",
		Short: "measure, sign and log a collected release, and write its documents",
		Long: `Takes the directory that "make release" collects (image, packs, firmware, locks,
packages), computes the manifest from its files, signs it, appends it to the
log, and writes beside them: manifest.json, manifest.corim, sbom.spdx.json,
keys.json, the log's proofs, and README.md, which says what to check and how.`,
		Example: `  cocoon release build/release --key release.key --log build/log --log-key log.key`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runRelease(cmd, args[0], f) },
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&f.keys, "key", nil, "sign with the Ed25519 key in this `file`; may be repeated")
	fs.StringVar(&f.log, "log", "", "`directory` of the transparency log")
	fs.StringVar(&f.logKey, "log-key", "", "the log's Ed25519 key `file`")
	fs.StringVar(&f.release, "release", "", "`file` with the release rules; without it those that are built in")
	fs.StringArrayVar(&f.recorded, "recorded", nil, "`file` with recordings of firmware, beside those that are built in; may be repeated")
	fs.StringArrayVar(&f.snpFirmware, "snp-firmware", nil, "`name` of a file in DIR/firmware that may boot the image under SEV-SNP, see cocoon manifest build; without it "+toolstree.SEVFile+" where it is there; may be repeated; "+noSNP+" leaves SEV-SNP out")
	fs.StringArrayVar(&f.models, "model", nil, modelUsage)
	fs.StringArrayVar(&f.supersedes, "supersedes", nil, "`HASH=TIME`: until when an earlier manifest of this image is accepted beside this one; may be repeated")
	fs.IntVar(&f.maxVCPUs, "max-vcpus", 512, "`number` of vCPUs up to which launch digests of SEV-SNP are accepted")
	fs.Int32Var(&f.networkID, "network-id", 0, "allow configs for this TON network `id`, beside those of the release rules (with --registry)")
	fs.StringVar(&f.registry, "registry", "", "allow configs that name this registry `address`, beside those of the release rules")
	for _, name := range []string{"key", "log", "log-key"} {
		need(cmd, name)
	}
	cmd.MarkFlagsRequiredTogether("network-id", "registry")
	return cmd
}

func runRelease(cmd *cobra.Command, dir string, f *releaseFlags) error {
	quietStorage()
	if err := f.collect(dir); err != nil {
		return err
	}
	keys, err := readKeys(f.keys)
	if err != nil {
		return err
	}
	logKey, err := keyfile.ReadEd25519(f.logKey)
	if err != nil {
		return fault.New(fault.ExitInternal, "log.key", "make one with cocoon manifest key", "%w", err)
	}
	m, err := f.build()
	if err != nil {
		return err
	}
	env, err := manifest.Sign(m, keys...)
	if err != nil {
		return err
	}
	v, err := manifest.Read(env, nil)
	if err != nil {
		return err
	}
	l, err := tiles.Open(f.log)
	if err != nil {
		return logFault(err)
	}
	docs, err := logged(cmd, l, logKey, v)
	if err != nil {
		return logFault(err)
	}
	more, err := audit.Documents(v)
	if err != nil {
		return err
	}
	for name, b := range more {
		docs[name] = b
	}
	docs[release.ManifestFile] = append(env, '\n')
	var public []ed25519.PublicKey
	for _, k := range keys {
		public = append(public, k.Public().(ed25519.PublicKey))
	}
	key := l.Key()
	if docs[release.KeysFile], err = release.NewTrust(public, &key).Encode(); err != nil {
		return err
	}
	for name, b := range docs {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fault.New(fault.ExitInternal, "file.unwritable", "check the path", "writing %s: %w", name, err)
		}
		if err := writeOut(path, b); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "release %s %d: manifest %s, signed by %d key(s), in log %s\n", m.Image.Name, m.Image.Version, v.SHA256, len(keys), key.Origin)
	return err
}

// collect points the measuring flags at the files of the release.
func (f *releaseFlags) collect(dir string) error {
	f.image, f.packs = filepath.Join(dir, release.ImageDir), filepath.Join(dir, release.PacksDir)
	entries := func(sub string) ([]string, error) {
		es, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return nil, fault.New(fault.ExitNotReady, "release.incomplete", "run make release", "reading release: %w", err)
		}
		var out []string
		for _, e := range es {
			out = append(out, e.Name())
		}
		return out, nil
	}
	firmware, err1 := entries(release.FirmwareDir)
	locks, err2 := entries(release.LocksDir)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	forSNP := f.snpFirmware
	for _, n := range forSNP {
		if n == noSNP {
			f.snp = []string{noSNP}
		} else if !slices.Contains(firmware, n) {
			return usage("reading --snp-firmware %.80q: no such file in %s", n, filepath.Join(dir, release.FirmwareDir))
		}
	}
	if len(forSNP) == 0 {
		forSNP = []string{toolstree.SEVFile}
	}
	for _, n := range firmware {
		path := filepath.Join(dir, release.FirmwareDir, n)
		if slices.Contains(forSNP, n) {
			f.snp = append(f.snp, path)
			continue
		}
		f.firmwares = append(f.firmwares, path)
	}
	for _, n := range locks {
		path := filepath.Join(dir, release.LocksDir, n)
		if n == "tools.used.json" {
			f.used = path
			continue
		}
		f.locks = append(f.locks, path)
	}
	return nil
}

// logged appends the manifest and returns the proofs: of its inclusion, and of
// the log's consistency with the state before, or with the one at which the
// manifest was first logged where it had been.
func logged(cmd *cobra.Command, l *tiles.Log, key ed25519.PrivateKey, v *manifest.Verified) (map[string][]byte, error) {
	ctx := cmd.Context()
	before, err := l.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := l.Append(ctx, key, v.SHA256); err != nil {
		return nil, err
	}
	in, err := l.ProveInclusion(ctx, v.SHA256)
	if err != nil {
		return nil, err
	}
	co, err := l.ProveConsistency(ctx, before.Raw)
	if err != nil {
		return nil, err
	}
	// The storage may sign anew between the two; they have to name one state.
	if in.Checkpoint, err = sameState(l.Key(), in, co); err != nil {
		return nil, err
	}
	return map[string][]byte{release.InclusionFile: in.Text(), release.ConsistencyFile: co.Text()}, nil
}

func sameState(k log.Key, in *log.Inclusion, co *log.Consistency) ([]byte, error) {
	x, err := log.OpenCheckpoint(in.Checkpoint, k)
	if err != nil {
		return nil, err
	}
	y, err := log.OpenCheckpoint(co.Checkpoint, k)
	if err != nil {
		return nil, err
	}
	if x.Size != y.Size || x.Root != y.Root {
		return nil, fault.New(fault.ExitInternal, "log.busy", "try again", "proving: the log grew meanwhile")
	}
	return co.Checkpoint, nil
}
