// Package nvgpu is the part of a policy that speaks of NVIDIA GPUs and
// NVSwitches: what a verifier or a client accepts of a device whose evidence
// is genuine. In come a strictly parsed JSON document and a verification's
// result; out comes a list of checks, all of them, failed or not.
//
// What the document leaves out is as strict as it can be without knowing the
// machine: measurements, firmware ID and revocation status are needed, expired
// reference measurements and certificates on hold are refused.
package nvgpu

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/manifest"
	"cocoon/verifier/nvgpu"
)

// Limits of a policy document.
const (
	MaxSize    = 64 << 10
	maxEntries = 64             // values in one list
	maxAge     = 7 * 24 * 3600  // seconds
	defaultAge = 24 * time.Hour // NVIDIA's responses are good for a day
)

// Policy says which devices are accepted.
type Policy struct {
	// Architectures lists the accepted GPU architectures; empty: hopper and
	// blackwell. Switches are judged by the topology.
	Architectures []nvgpu.Arch `json:"architectures,omitempty"`
	// Models lists the accepted GPU models: "H100", "H200", "B200", or a board
	// as project/SKU/chip SKU, "G520/0200/885"; empty: any.
	Models []string `json:"models,omitempty"`
	// Modes lists the accepted modes; empty: spt, mpt and ppcie.
	Modes []nvgpu.Mode `json:"modes,omitempty"`
	// Floors are the oldest accepted driver and VBIOS of each architecture. A
	// GPU of an architecture without one is refused, unless the list is empty.
	Floors []manifest.GPUFloor `json:"floors,omitempty"`
	// AllowUnmeasured accepts devices for which there are no reference
	// measurements. Nothing then shows which firmware and driver run there, nor
	// that the GPU is not in DEVTOOLS mode.
	AllowUnmeasured bool `json:"allow_unmeasured,omitempty"`
	// AllowExpiredRIM takes reference measurements whose signer has expired.
	AllowExpiredRIM bool `json:"allow_expired_rim,omitempty"`
	// AllowNoFWID accepts GPUs whose report has no firmware ID, as old drivers
	// make it. Switches do not report one.
	AllowNoFWID bool `json:"allow_no_fwid,omitempty"`
	// AllowPartial accepts devices that are not a whole machine: the topology
	// of protected PCIe is not checked. For looking at single devices.
	AllowPartial bool `json:"allow_partial,omitempty"`
	OCSP         OCSP `json:"ocsp,omitzero"`
}

// OCSP is what a policy says of revocation.
type OCSP struct {
	// AllowMissing accepts certificates whose revocation status nothing shows.
	AllowMissing bool `json:"allow_missing,omitempty"`
	// AllowHold accepts certificates that are revoked with reason
	// certificateHold.
	AllowHold bool `json:"allow_certificate_hold,omitempty"`
	// RequireNonce takes only responses that echo a nonce of this
	// verification; cached ones cannot.
	RequireNonce bool `json:"require_nonce,omitempty"`
	// MaxAgeSeconds bounds the age of responses; 0: a day. Their own validity
	// bounds them in any case.
	MaxAgeSeconds int64 `json:"max_age_seconds,omitempty"`
}

// Default returns the policy that applies where none is given: the zero value.
func Default() *Policy { return &Policy{} }

// Parse reads a policy from JSON; unknown and duplicate keys and values that
// make no sense are refused. The error is a fault with code gpu.policy.parse.
func Parse(doc []byte) (*Policy, error) {
	var p Policy
	err := jcs.Decode(doc, MaxSize, &p)
	if err == nil {
		err = p.Validate()
	}
	if err != nil {
		return nil, fault.New(fault.ExitParse, "gpu.policy.parse", "the keys are described in docs/verify-gpu.md", "reading policy: %w", err)
	}
	return &p, nil
}

var modelRE = regexp.MustCompile(`^[A-Z0-9]{1,8}(/[A-Z0-9]{1,8}/[A-Z0-9]{1,8})?$`)

// Validate refuses policies that make no sense. Parse calls it; who embeds a
// Policy in another document has to.
func (p *Policy) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for i, a := range p.Architectures {
		if a != nvgpu.Hopper && a != nvgpu.Blackwell || slices.Contains(p.Architectures[:i], a) {
			bad("architecture %.32q is unknown or repeated", a)
		}
	}
	for i, m := range p.Modes {
		if m != nvgpu.SPT && m != nvgpu.MPT && m != nvgpu.PPCIE || slices.Contains(p.Modes[:i], m) {
			bad("mode %.32q is unknown or repeated", m)
		}
	}
	if len(p.Models) > maxEntries || len(p.Floors) > maxEntries {
		bad("at most %d models and floors", maxEntries)
		return errors.Join(errs...)
	}
	for _, m := range p.Models {
		if !modelRE.MatchString(m) {
			bad("model %.32q is neither a model nor a board as project/SKU/chip SKU", m)
		}
	}
	errs = append(errs, validFloors(p.Floors))
	if p.OCSP.MaxAgeSeconds < 0 || p.OCSP.MaxAgeSeconds > maxAge {
		bad("ocsp: max_age_seconds %d, want 0 to %d", p.OCSP.MaxAgeSeconds, maxAge)
	}
	return errors.Join(errs...)
}

func validFloors(floors []manifest.GPUFloor) error {
	var errs []error
	seen := map[string]bool{}
	for _, f := range floors {
		if _, err := nvgpu.ParseArch(f.Arch); err != nil || seen[f.Arch] || strings.ToLower(f.Arch) != f.Arch {
			errs = append(errs, fmt.Errorf("floor for %.32q: unknown or repeated", f.Arch))
		}
		seen[f.Arch] = true
		if _, err := version(f.Driver, 10); f.Driver != "" && err != nil {
			errs = append(errs, fmt.Errorf("floor for %.32q: driver: %w", f.Arch, err))
		}
		if _, err := version(f.VBIOS, 16); f.VBIOS != "" && err != nil {
			errs = append(errs, fmt.Errorf("floor for %.32q: vbios: %w", f.Arch, err))
		}
	}
	return errors.Join(errs...)
}

// version reads dotted numbers: decimal for drivers, hex for VBIOS.
func version(s string, base int) ([]uint64, error) {
	parts := strings.Split(s, ".")
	if len(parts) > 8 {
		return nil, fmt.Errorf("version %.64q has more than 8 parts", s)
	}
	out := make([]uint64, len(parts))
	for i, part := range parts {
		n, err := strconv.ParseUint(part, base, 32)
		if err != nil {
			return nil, fmt.Errorf("version %.64q is not dotted numbers", s)
		}
		out[i] = n
	}
	return out, nil
}

// Apply sets what a verification has to know of the policy beforehand.
func (p *Policy) Apply(o *nvgpu.Options) {
	o.NoRIM, o.AllowExpiredRIM, o.AllowHold, o.Partial = p.AllowUnmeasured, p.AllowExpiredRIM, p.OCSP.AllowHold, p.AllowPartial
	o.OCSPMaxAge = defaultAge
	if p.OCSP.MaxAgeSeconds > 0 {
		o.OCSPMaxAge = time.Duration(p.OCSP.MaxAgeSeconds) * time.Second
	}
}
