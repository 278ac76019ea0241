package main

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/measurements/corim"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/release"
)

func newManifestCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "manifest",
		Short: "make, sign, verify and compare published measurements",
	}
	key := newMeasureKeyCmd()
	key.Short = "make an Ed25519 key that signs manifests or logs, and print its public key"
	cmd.AddCommand(newManifestBuildCmd(), newManifestSignCmd(), newManifestVerifyCmd(), newManifestShowCmd(), newManifestDiffCmd(), newManifestCoRIMCmd(), key)
	return cmd
}

func newManifestBuildCmd() *cobra.Command {
	f := &measureFlags{}
	cmd := &cobra.Command{
		Use:   "build --image DIR --packs DIR --firmware FILE --out FILE",
		Short: "compute a manifest from the files of a build, unsigned",
		Long: `Computes what every TEE reports for an image from the files of a build, as
"cocoon measure" does, and writes the manifest in an unsigned envelope. The same
files and flags give the same bytes.`,
		Example: `  cocoon manifest build --image build/image --packs build/packs --firmware OVMF.fd --lock tools.lock --used build/tools.used.json --out manifest.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := f.build()
			if err != nil {
				return err
			}
			env, err := manifest.Sign(m)
			if err != nil {
				return err
			}
			if err := writeOut(f.out, append(env, '\n')); err != nil {
				return err
			}
			v, err := manifest.Read(env, nil)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), v.SHA256)
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringVarP(&f.out, "out", "o", "", "write the manifest, a DSSE envelope, to this `file`")
	need(cmd, "out")
	return cmd
}

func readKeys(paths []string) ([]ed25519.PrivateKey, error) {
	var out []ed25519.PrivateKey
	for _, path := range paths {
		k, err := keyfile.ReadEd25519(path)
		if err != nil {
			return nil, fault.New(fault.ExitInternal, "manifest.key", "make one with cocoon manifest key", "%w", err)
		}
		out = append(out, k)
	}
	return out, nil
}

func newManifestSignCmd() *cobra.Command {
	var keys []string
	var out string
	cmd := &cobra.Command{
		Use:   "sign FILE --key FILE",
		Short: "add signatures to a manifest",
		Long: `Adds a signature by each key to the envelope; those that are there stay. Signers
can do so one after the other, each on a machine of their own. Look at what you
sign with "cocoon manifest show" first.`,
		Example: `  cocoon manifest sign manifest.json --key release.key
  cocoon manifest sign manifest.json --key other.key --out signed.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			env, err := readInput("manifest", args[0], manifest.MaxEnvelope)
			if err != nil {
				return err
			}
			ks, err := readKeys(keys)
			if err != nil {
				return err
			}
			signed, err := manifest.AddSignatures(env, ks...)
			if err != nil {
				return manifestFault(err)
			}
			if out == "" {
				out = args[0]
			}
			if err := writeOut(out, append(signed, '\n')); err != nil {
				return err
			}
			for _, k := range ks {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "signed by %s\n", hex.EncodeToString(k.Public().(ed25519.PublicKey))); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "sign with the Ed25519 key in this `file`; may be repeated")
	cmd.Flags().StringVarP(&out, "out", "o", "", "write to this `file` instead")
	need(cmd, "key")
	return cmd
}

// trustFlags say whose signatures count.
type trustFlags struct {
	trust     string
	keys      []string
	threshold int
}

func (f *trustFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.trust, "trust", "", "`file` with the release keys and the log's key that you trust (the form of keys.json)")
	fs.StringArrayVar(&f.keys, "signer", nil, "a raw Ed25519 public key, `hex`, that you trust; may be repeated, instead of --trust")
	fs.IntVar(&f.threshold, "threshold", 0, "`number` of --signer keys that must have signed; without it all of them")
	cmd.MarkFlagsMutuallyExclusive("trust", "signer")
}

// read returns what the flags name, nil if they name nothing.
func (f *trustFlags) read() (*release.Trust, error) {
	if f.trust != "" {
		doc, err := readInput("--trust", f.trust, release.MaxTrust)
		if err != nil {
			return nil, err
		}
		t, err := release.ParseTrust(doc)
		if err != nil {
			return nil, fault.New(fault.ExitParse, "trust.parse", "correct the file", "%w", err)
		}
		return t, nil
	}
	if len(f.keys) == 0 {
		return nil, nil
	}
	t := &release.Trust{Format: 1, Threshold: f.threshold}
	for _, k := range f.keys {
		d, err := digest.Parse256(k)
		if err != nil {
			return nil, usage("reading --signer %.80q: want 64 lower-case hex digits", k)
		}
		t.Keys = append(t.Keys, d)
	}
	if t.Threshold == 0 {
		t.Threshold = len(t.Keys)
	}
	b, err := t.Encode()
	if err == nil {
		t, err = release.ParseTrust(b)
	}
	if err != nil {
		return nil, usage("reading --signer and --threshold: %w", err)
	}
	return t, nil
}

func newManifestVerifyCmd() *cobra.Command {
	f := &trustFlags{}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify FILE --trust FILE",
		Short: "verify a manifest's form and signatures",
		Long: `Checks that the manifest is in its only form, that its registers follow from its
components, and that enough of the keys signed it. Exit codes: 0 good; 4 not
enough of your keys signed; 5 not a manifest.`,
		Example: `  cocoon manifest verify manifest.json --trust keys.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := f.read()
			if err != nil {
				return err
			}
			if t == nil {
				return usage("give the keys that you trust with --trust or --signer")
			}
			env, err := readInput("manifest", args[0], manifest.MaxEnvelope)
			if err != nil {
				return err
			}
			v, err := manifest.Open(env, manifest.Trust{Keys: t.Keys, Threshold: t.Threshold})
			if err != nil {
				return manifestFault(err)
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), showManifest(v, false))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "good: %s %d, manifest %s, signed by %d trusted key(s), %d needed\n",
				v.Manifest.Image.Name, v.Manifest.Image.Version, v.SHA256, len(v.Signers), t.Threshold)
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the result as JSON")
	return cmd
}

// manifestView is what "cocoon manifest show --json" writes.
type manifestView struct {
	SHA256   digest.SHA256      `json:"manifest_sha256"`
	Signers  []digest.SHA256    `json:"signers"` // of the keys asked for
	Manifest *manifest.Manifest `json:"manifest,omitempty"`
}

func showManifest(v *manifest.Verified, whole bool) *manifestView {
	out := &manifestView{SHA256: v.SHA256, Signers: append([]digest.SHA256{}, v.Signers...)}
	if whole {
		out.Manifest = v.Manifest
	}
	return out
}

// openArg reads a manifest without asking who signed it.
func openArg(path string) (*manifest.Verified, error) {
	env, err := readInput("manifest", path, manifest.MaxEnvelope)
	if err != nil {
		return nil, err
	}
	v, err := manifest.Read(env, nil)
	if err != nil {
		return nil, manifestFault(err)
	}
	return v, nil
}

func newManifestShowCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "show what a manifest says, without asking who signed it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := openArg(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), showManifest(v, true))
			}
			p, m := &printer{w: cmd.OutOrStdout()}, v.Manifest
			p.f("manifest  %s", v.SHA256)
			debug := ""
			if m.Image.Debug {
				debug = ", FOR DEBUGGING ONLY"
			}
			p.f("image     %s version %d, profile %s%s", m.Image.Name, m.Image.Version, m.Image.Profile, debug)
			p.f("sources   %s, refused from %s on", m.Image.SourceDate.Format(time.DateOnly), m.Sunset.Format(time.DateOnly))
			p.f("cmdline   %s", plain(m.Boot.Cmdline))
			p.f("made of   %d artifacts from %d inputs", len(m.Artifacts), len(m.Inputs))
			if m.TPM != nil {
				p.f("TPM       %d firmware(s)", len(m.TPM.Firmwares))
			}
			if m.TDX != nil {
				p.f("TDX       %d firmware(s)", len(m.TDX.Firmwares))
			}
			if m.SNP != nil {
				p.f("SEV-SNP   %d firmware(s)", len(m.SNP.Firmwares))
			}
			for _, e := range m.Engines {
				p.f("engine    %s %s", e.ImageDigest, e.Kind)
			}
			for _, x := range m.Models {
				p.f("model     %s %s", x.VerityRoot, x.Name)
			}
			for _, s := range m.Supersedes {
				p.f("replaces  %s, accepted until %s", s.Manifest, s.GraceUntil.Format(time.RFC3339))
			}
			return p.err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the whole manifest as JSON")
	return cmd
}

func newManifestDiffCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "show what differs between two manifests",
		Long: `Compares two manifests field by field. Exit codes: 0 the same; 2 they differ;
5 not a manifest.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var vs [2]*manifest.Verified
			var errs []error
			for i, path := range args {
				var err error
				vs[i], err = openArg(path)
				errs = append(errs, err)
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			ds, err := manifest.Diff(vs[0].Manifest, vs[1].Manifest)
			if err != nil {
				return err
			}
			if asJSON {
				if err := writeJSON(cmd.OutOrStdout(), ds); err != nil {
					return err
				}
			} else {
				p := &printer{w: cmd.OutOrStdout()}
				for _, d := range ds {
					p.f("%s\n  - %s\n  + %s", d.Field, plain(d.Old), plain(d.New))
				}
				if len(ds) == 0 {
					p.f("the same: %s", vs[0].SHA256)
				}
				if p.err != nil {
					return p.err
				}
			}
			if len(ds) == 0 {
				return nil
			}
			return reported(fault.New(fault.ExitRefused, "manifest.differs", "", "comparing manifests: %d fields differ", len(ds)))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the differences as JSON")
	return cmd
}

func newManifestCoRIMCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "corim FILE --out FILE",
		Short: "export a manifest's reference values as CoRIM",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := openArg(args[0])
			if err != nil {
				return err
			}
			c, err := corim.FromManifest(v.Manifest, v.SHA256)
			if err != nil {
				return err
			}
			b, err := c.Encode()
			if err != nil {
				return err
			}
			return writeOut(out, b)
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "write the CoRIM, CBOR, to this `file`")
	need(cmd, "out")
	return cmd
}
