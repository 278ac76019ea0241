package policy

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/manifest"
	"cocoon/verifier/policy/rules"
)

// MaxVerdictSeconds is the longest life of a verdict (DESIGN section 2).
const MaxVerdictSeconds = 3600

// Parse reads a policy, strictly, and validates it.
func Parse(b []byte) (*Policy, error) {
	var p Policy
	if err := jcs.Decode(b, MaxSize, &p); err != nil {
		return nil, fmt.Errorf("parsing policy: %w", err)
	}
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("parsing policy: %w", err)
	}
	return &p, nil
}

var classes = []string{ClassVTPM, ClassTDX, ClassSNP, ClassSGX, ClassAzTDX, ClassAzSNP, ClassTest}

// Validate reports everything in the policy that is missing or contradicts
// itself.
func (p *Policy) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Format != Format {
		bad("format %d, want %d", p.Format, Format)
	}
	if p.Name == "" || len(p.Name) > 128 {
		bad("name must have 1 to 128 bytes")
	}
	if p.Environment != Production && p.Environment != Development {
		bad("environment %.32q, want %q or %q", p.Environment, Production, Development)
	}
	if len(p.TrustClasses) == 0 || len(p.TrustClasses) > len(classes) {
		bad("%d trust classes, want 1 to %d", len(p.TrustClasses), len(classes))
	}
	for i, c := range p.TrustClasses {
		if !slices.Contains(classes, c) || slices.Contains(p.TrustClasses[:i], c) {
			bad("trust class %.32q is unknown or repeated", c)
		}
	}
	// DESIGN section 2: nothing marked production accepts a machine without
	// confidentiality.
	for _, c := range p.TrustClasses {
		if p.Environment == Production && DevelopmentClass(c) {
			bad("a production policy cannot accept trust class %q", c)
		}
	}
	errs = append(errs, p.validateManifests(), p.validateTPM())
	if p.Freshness.VerdictSeconds < 1 || p.Freshness.VerdictSeconds > MaxVerdictSeconds {
		bad("freshness: verdict_seconds %d, want 1 to %d", p.Freshness.VerdictSeconds, MaxVerdictSeconds)
	}
	if p.DCAP != nil {
		if err := p.DCAP.Validate(); err != nil {
			bad("dcap: %w", err)
		}
	}
	if p.SNP != nil {
		if err := p.SNP.Validate(); err != nil {
			bad("snp: %w", err)
		}
	}
	if _, err := rules.Compile(p.Rules); err != nil {
		bad("rules: %w", err)
	}
	if p.NVGPU != nil {
		if err := p.NVGPU.Validate(); err != nil {
			bad("nvgpu: %w", err)
		}
	}
	return errors.Join(errs...)
}

func (p *Policy) validateManifests() error {
	m := &p.Manifests
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("manifests: "+format, args...)) }
	if len(m.Hashes) > maxEntries || len(m.Keys) > maxEntries || len(m.Revoked) > 16*maxEntries {
		return errors.New("manifests: too many entries")
	}
	if len(m.Hashes) == 0 && len(m.Keys) == 0 && m.Registry == nil {
		bad("neither hashes nor keys nor a registry")
	}
	if r := m.Registry; r != nil && (r.Address == "" || len(r.Address) > 128 || r.MaxAgeSeconds < 1 || r.MaxAgeSeconds > MaxVerdictSeconds) {
		bad("registry needs an address and max_age_seconds of 1 to %d", MaxVerdictSeconds)
	}
	for _, l := range [][]digest.SHA256{m.Hashes, m.Keys, m.Revoked} {
		for i, d := range l {
			if d.IsZero() || slices.Contains(l[:i], d) {
				bad("%s is zero or repeated", d)
			}
		}
	}
	if len(m.Keys) == 0 && m.Threshold != 0 || len(m.Keys) > 0 && (m.Threshold < 1 || m.Threshold > len(m.Keys)) {
		bad("threshold %d of %d keys", m.Threshold, len(m.Keys))
	}
	if m.Log != nil {
		if err := m.Log.validate(); err != nil {
			bad("log: %w", err)
		}
	}
	return errors.Join(errs...)
}

func (l *Log) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(l.Keys) == 0 || len(l.Keys) > maxEntries || len(l.Witnesses) > maxEntries {
		return fmt.Errorf("%d keys and %d witnesses, want 1 to %d and at most as many", len(l.Keys), len(l.Witnesses), maxEntries)
	}
	for i, k := range l.Keys {
		if _, err := log.NewKey(k.Origin, k.Public); err != nil {
			bad("key %d: %w", i+1, err)
		}
		if slices.ContainsFunc(l.Keys[:i], func(o log.Key) bool { return o.Origin == k.Origin && o.Public.Equal(k.Public) }) {
			bad("key of %s is repeated", k.ID())
		}
	}
	// One witness under two names is one.
	public := map[string]bool{}
	for i, w := range l.Witnesses {
		key, err := log.ParseWitness(w)
		if err != nil {
			bad("witness %d: %w", i+1, err)
			continue
		}
		if public[string(key)] {
			bad("witness %d is repeated", i+1)
		}
		public[string(key)] = true
	}
	if len(l.Witnesses) == 0 && l.Threshold != 0 || len(l.Witnesses) > 0 && (l.Threshold < 1 || l.Threshold > len(l.Witnesses)) {
		bad("threshold %d of %d witnesses", l.Threshold, len(l.Witnesses))
	}
	return errors.Join(errs...)
}

func (p *Policy) validateTPM() error {
	if p.TPM == nil {
		if slices.Contains(p.TrustClasses, ClassVTPM) {
			return fmt.Errorf("tpm: section is missing, trust class %q needs it", ClassVTPM)
		}
		return nil
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("tpm: "+format, args...)) }
	if len(p.TPM.AKRoots) == 0 || len(p.TPM.AKRoots) > maxEntries || len(p.TPM.EKRoots) > maxEntries || len(p.TPM.DevelopmentEKRoots) > maxEntries {
		bad("want 1 to %d ak_roots and at most as many ek_roots", maxEntries)
		return errors.Join(errs...)
	}
	if p.Environment == Production && len(p.TPM.DevelopmentEKRoots) > 0 {
		bad("a production policy cannot have development_ek_roots")
	}
	for _, der := range slices.Concat(p.TPM.AKRoots, p.TPM.AllEKRoots()) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			bad("parsing root certificate: %w", err)
		} else if !c.IsCA {
			bad("root certificate %s is not one of an authority", c.Subject)
		}
	}
	return errors.Join(errs...)
}

// Accepts reports whether evidence of a trust class can be accepted at all.
// The development class counts only in a policy that is marked so, whatever
// list it is in.
func (p *Policy) Accepts(class string) bool {
	if DevelopmentClass(class) && p.Environment != Development {
		return false
	}
	return slices.Contains(p.TrustClasses, class)
}

// Trust returns the policy's rules for opening manifests.
func (p *Policy) Trust() manifest.Trust {
	return manifest.Trust{Hashes: p.Manifests.Hashes, Keys: p.Manifests.Keys, Threshold: p.Manifests.Threshold}
}
