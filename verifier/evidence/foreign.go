package evidence

import (
	"encoding/json"
	"errors"
	"fmt"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// ProfileForeign names evidence of a machine that is none of ours.
const ProfileForeign = "urn:cocoon:evidence:foreign:1"

// Foreign is recorded evidence of a CPU, of GPUs, or of both: it has neither
// claims nor config, so nothing is bound to it and no freshness is shown. What
// can be said of it is its TCB and its registers.
type Foreign struct {
	Profile string `json:"profile"`        // ProfileForeign
	CPU     *CPU   `json:"cpu,omitempty"`  // nil: GPUs alone
	GPUs    []GPU  `json:"gpus,omitempty"` // in any number up to MaxGPUs
	// GPUNonce is what the GPUs were asked with, as whoever recorded them says;
	// nil: it is not known.
	GPUNonce   *digest.SHA256  `json:"gpu_nonce,omitempty"`
	Collateral json.RawMessage `json:"collateral,omitempty"`
}

// ParseForeign reads foreign evidence and checks its form.
func ParseForeign(b []byte) (*Foreign, error) {
	var e Foreign
	if err := jcs.Decode(b, MaxEvidence, &e); err != nil {
		return nil, fmt.Errorf("parsing foreign evidence: %w", err)
	}
	if err := e.validate(); err != nil {
		return nil, fmt.Errorf("parsing foreign evidence: %w", err)
	}
	return &e, nil
}

func (e *Foreign) validate() error {
	var errs []error
	if e.Profile != ProfileForeign {
		errs = append(errs, fmt.Errorf("profile %.64q, want %q", e.Profile, ProfileForeign))
	}
	switch {
	case e.CPU != nil:
		errs = append(errs, e.CPU.validate())
	case len(e.GPUs) == 0:
		errs = append(errs, errors.New("neither cpu nor gpus"))
	}
	if len(e.GPUs) > MaxGPUs {
		errs = append(errs, fmt.Errorf("%d gpus, at most %d", len(e.GPUs), MaxGPUs))
	}
	if e.GPUNonce != nil && len(e.GPUs) == 0 {
		errs = append(errs, errors.New("a nonce of GPUs without any"))
	}
	return errors.Join(errs...)
}

// Marshal returns the evidence in RFC 8785 form.
func (e *Foreign) Marshal() ([]byte, error) { return jcs.Marshal(e) }

// Hash returns the SHA-256 of the JCS of the evidence.
func (e *Foreign) Hash() (digest.SHA256, error) {
	sum, err := jcs.Hash(e)
	return digest.SHA256(sum), err
}
