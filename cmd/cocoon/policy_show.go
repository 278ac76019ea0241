package main

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/verifier/pck"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/builtin"
)

// policyShowFlags are the flags of "cocoon policy show".
type policyShowFlags struct {
	keys, manifests          []string
	threshold                int
	logs, witnesses          []string
	registry                 string
	network                  int32
	maxAge                   int64
	akRoots, ekRoots, devEKs []string
	cpuOnly                  bool
}

func newPolicyShowCmd() *cobra.Command {
	f := &policyShowFlags{}
	cmd := &cobra.Command{
		Use:   "show production|development",
		Short: "print a built-in policy for a site to complete",
		Long: `Prints a built-in policy as a JSON document. What only a site can know comes by
flags, or is filled in afterwards: what is still missing is named on standard
error. Nothing applies a built-in policy by itself.

production accepts TDX and SEV-SNP guests, UpToDate and not debuggable, with
GPUs in confidential mode. development accepts vtpm: measured boot without
confidentiality.`,
		Example: `  cocoon policy show production --manifest-key 3b6a… >policy.json
  cocoon policy show production --registry 0:4bd1… --network -239 --cpu-only
  cocoon policy show production --manifest-key 3b6a… --manifest-log log.example.org/cocoon+1f2e3d4c+AQ…
  cocoon policy show development --manifest ef13… --ak-root ak-ca.crt --development-ek-root ek-ca.crt`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: builtin.Names(),
		RunE:      func(cmd *cobra.Command, args []string) error { return runPolicyShow(cmd, args[0], f) },
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&f.keys, "manifest-key", nil, "accept manifests signed by this Ed25519 key, `hex`; may be repeated")
	fs.IntVar(&f.threshold, "threshold", 0, "how many of the keys must have signed (default all)")
	fs.StringArrayVar(&f.manifests, "manifest", nil, "accept the manifest with this SHA-256, `hex`; may be repeated")
	fs.StringArrayVar(&f.logs, "manifest-log", nil, "want manifests proven to be in the log of this verifier `key`; may be repeated: in one of them")
	fs.StringArrayVar(&f.witnesses, "manifest-witness", nil, "want the log's checkpoint cosigned by the witness of this verifier `key`; may be repeated: by all of them")
	fs.StringVar(&f.registry, "registry", "", "want manifest and model listed by the registry at this TON `address`")
	fs.Int32Var(&f.network, "network", 0, "the registry's TON global `id`")
	fs.Int64Var(&f.maxAge, "registry-max-age", 600, "how old the registry's state may be, in `seconds`")
	fs.StringArrayVar(&f.akRoots, "ak-root", nil, "development: certificate `file` of an authority that enrols attestation keys; may be repeated")
	fs.StringArrayVar(&f.ekRoots, "ek-root", nil, "development: certificate `file` of a maker of TPMs; may be repeated")
	fs.StringArrayVar(&f.devEKs, "development-ek-root", nil, "development: certificate `file` of an authority of software TPMs; may be repeated")
	fs.BoolVar(&f.cpuOnly, "cpu-only", false, "production: accept machines without a GPU")
	cmd.MarkFlagsRequiredTogether("registry", "network")
	return cmd
}

func runPolicyShow(cmd *cobra.Command, name string, f *policyShowFlags) error {
	s, err := f.site(name)
	if err != nil {
		return err
	}
	p, err := builtin.New(name, *s)
	if err != nil {
		return usage("%w", err)
	}
	if err := writeJSON(cmd.OutOrStdout(), p); err != nil {
		return err
	}
	doc, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encoding policy: %w", err)
	}
	_, faults := policy.Check(doc)
	for _, m := range faults {
		fmt.Fprintf(cmd.ErrOrStderr(), "to complete: %s\n", m.Msg)
	}
	return nil
}

// site reads what the flags name.
func (f *policyShowFlags) site(name string) (*builtin.Site, error) {
	s := &builtin.Site{Threshold: f.threshold, CPUOnly: f.cpuOnly}
	var errs []error
	for _, l := range []struct {
		flag string
		in   []string
		out  *[]digest.SHA256
	}{{"--manifest-key", f.keys, &s.ManifestKeys}, {"--manifest", f.manifests, &s.Manifests}} {
		for _, v := range l.in {
			d, err := digest.Parse256(strings.ToLower(v))
			if err != nil {
				errs = append(errs, usage("reading %s %.80q: not 32 bytes of hex", l.flag, v))
				continue
			}
			*l.out = append(*l.out, d)
		}
	}
	if len(f.logs)+len(f.witnesses) > 0 {
		s.Log = &policy.Log{Witnesses: f.witnesses, Threshold: len(f.witnesses)}
	}
	for _, v := range f.logs {
		k, err := log.ParseKey(v)
		if err != nil {
			errs = append(errs, usage("reading --manifest-log: %w", err))
			continue
		}
		s.Log.Keys = append(s.Log.Keys, k)
	}
	if f.registry != "" {
		s.Registry = &policy.Registry{Address: f.registry, NetworkID: f.network, MaxAgeSeconds: f.maxAge}
	}
	if name == policy.Production && len(f.akRoots)+len(f.ekRoots)+len(f.devEKs) > 0 {
		errs = append(errs, usage("--ak-root, --ek-root and --development-ek-root are for development: production accepts no TPM's word alone"))
	}
	if name == policy.Development && f.cpuOnly {
		errs = append(errs, usage("--cpu-only is for production: development wants no GPU"))
	}
	for _, l := range []struct {
		flag string
		in   []string
		out  *[][]byte
	}{{"--ak-root", f.akRoots, &s.AKRoots}, {"--ek-root", f.ekRoots, &s.EKRoots}, {"--development-ek-root", f.devEKs, &s.DevelopmentEKRoots}} {
		for _, path := range l.in {
			certs, err := readCertificates(l.flag, path)
			if err != nil {
				errs = append(errs, err)
			}
			*l.out = append(*l.out, certs...)
		}
	}
	return s, errors.Join(errs...)
}

// readCertificates reads certificates in PEM, or one in DER, as DER.
func readCertificates(flag, path string) ([][]byte, error) {
	b, err := readInput(flag, path, pck.MaxChain)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fault.New(fault.ExitParse, "file.certificate", "give certificates alone", "reading %s: %s holds a %.64q", flag, path, block.Type)
		}
		out = append(out, block.Bytes)
	}
	if len(out) == 0 {
		out = [][]byte{b}
	}
	return out, nil
}
