package pcr

import (
	_ "embed"
	"errors"
	"fmt"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// recordedJSON has the firmware files that were watched at the boot of the
// pinned tools tree.
//
//go:embed recorded.json
var recordedJSON []byte

// MaxRecorded bounds a file of recordings, in bytes.
const MaxRecorded = 1 << 20

// ErrUnknownFirmware is returned for firmware of which nothing is recorded.
var ErrUnknownFirmware = errors.New("no recording of this firmware")

// Recordings are the firmware files of which PCR 0 and 7 are known.
type Recordings struct {
	Format    int        `json:"format"` // 1
	Firmwares []Firmware `json:"firmwares"`
}

// Recorded returns the recordings that come with this package.
func Recorded() (*Recordings, error) { return ParseRecordings(recordedJSON) }

// ParseRecordings reads a file of recordings, strictly.
func ParseRecordings(b []byte) (*Recordings, error) {
	var r Recordings
	if err := jcs.Decode(b, MaxRecorded, &r); err != nil {
		return nil, fmt.Errorf("parsing firmware recordings: %w", err)
	}
	if r.Format != 1 {
		return nil, fmt.Errorf("parsing firmware recordings: format %d, want 1", r.Format)
	}
	seen := map[digest.SHA256]bool{}
	for i := range r.Firmwares {
		f := &r.Firmwares[i]
		if err := f.Validate(); err != nil {
			return nil, fmt.Errorf("parsing firmware recordings: %w", err)
		}
		if f.Provenance != ProvenanceRecorded {
			return nil, fmt.Errorf("parsing firmware recordings: firmware %.64q: provenance %.32q, want %q", f.Name, f.Provenance, ProvenanceRecorded)
		}
		if seen[f.SHA256] {
			return nil, fmt.Errorf("parsing firmware recordings: firmware %s twice", f.SHA256)
		}
		seen[f.SHA256] = true
	}
	return &r, nil
}

// Validate reports every field that is missing or out of range.
func (f *Firmware) Validate() error {
	var errs []error
	if f.Name == "" || len(f.Name) > 128 {
		errs = append(errs, errors.New("firmware name must have 1 to 128 bytes"))
	}
	if f.SHA256.IsZero() || f.PCR0.IsZero() || f.PCR7.IsZero() {
		errs = append(errs, fmt.Errorf("firmware %.64q: a hash is missing", f.Name))
	}
	if f.Provenance != ProvenanceRecorded && f.Provenance != ProvenanceComputed {
		errs = append(errs, fmt.Errorf("firmware %.64q: provenance %.32q, want %q or %q", f.Name, f.Provenance, ProvenanceRecorded, ProvenanceComputed))
	}
	if f.Cmdline != CmdlineInitrdFirst && f.Cmdline != CmdlineInitrdLast {
		errs = append(errs, fmt.Errorf("firmware %.64q: command line rule %.32q is unknown", f.Name, f.Cmdline))
	}
	return errors.Join(errs...)
}

// Find returns the recording of a firmware file.
func (r *Recordings) Find(sum digest.SHA256) (Firmware, error) {
	for _, f := range r.Firmwares {
		if f.SHA256 == sum {
			return f, nil
		}
	}
	return Firmware{}, fmt.Errorf("looking up firmware %s: %w", sum, ErrUnknownFirmware)
}

// With returns the recordings with others added; of two for one file, the
// other's counts.
func (r *Recordings) With(other *Recordings) *Recordings {
	out := &Recordings{Format: 1}
	for _, f := range r.Firmwares {
		if _, err := other.Find(f.SHA256); err != nil {
			out.Firmwares = append(out.Firmwares, f)
		}
	}
	out.Firmwares = append(out.Firmwares, other.Firmwares...)
	return out
}
