package result

import (
	"fmt"

	"cocoon/internal/fault"
)

// Status is an EAR status: the tier of the worst value of a trustworthiness
// vector (draft-ietf-rats-ear-04 section 3).
type Status string

// Tiers of draft-ietf-rats-ar4si, section 2.3.2.
const (
	None            Status = "none"
	Affirming       Status = "affirming"
	Warning         Status = "warning"
	Contraindicated Status = "contraindicated"
)

// Values of a trustworthiness claim that this verifier states: one for each
// tier.
const (
	ValueAffirming       = 2
	ValueWarning         = 32
	ValueContraindicated = 96
)

// Vector is an AR4SI trustworthiness vector; a category without a claim is
// absent.
type Vector map[string]int

// Categories of a Vector.
const (
	InstanceIdentity = "instance-identity"
	Configuration    = "configuration"
	Executables      = "executables"
	FileSystem       = "file-system"
	Hardware         = "hardware"
	RuntimeOpaque    = "runtime-opaque"
	StorageOpaque    = "storage-opaque"
	SourcedData      = "sourced-data"
)

var categories = map[string]bool{InstanceIdentity: true, Configuration: true, Executables: true, FileSystem: true,
	Hardware: true, RuntimeOpaque: true, StorageOpaque: true, SourcedData: true}

// Tier returns the tier of one trustworthiness claim's value
// (draft-ietf-rats-ar4si, section 2.3.2).
func Tier(v int) Status {
	switch {
	case v >= -1 && v <= 1:
		return None
	case v >= 2 && v <= 31, v >= -32 && v <= -2:
		return Affirming
	case v >= 32 && v <= 95, v >= -96 && v <= -33:
		return Warning
	default:
		return Contraindicated
	}
}

// rank orders tiers from best to worst. "None" says nothing, which is less
// bad than a warning and no better than that. What it does not know is unknown.
func rank(s Status) int {
	switch s {
	case Affirming:
		return 0
	case None:
		return 1
	case Warning:
		return 2
	case Contraindicated:
		return 3
	}
	return unknown
}

const unknown = -1

// Worst returns the worst of the given tiers, None without any. An unknown
// tier counts as Contraindicated.
func Worst(of ...Status) Status {
	if len(of) == 0 {
		return None
	}
	worst, least := Affirming, rank(Affirming)
	for _, s := range of {
		r := rank(s)
		if r == unknown {
			return Contraindicated
		}
		if r > least {
			worst, least = s, r
		}
	}
	return worst
}

// Status returns the worst tier of the vector.
func (v Vector) Status() Status {
	var room [8]Status // as many as there are categories
	tiers := room[:0]
	for _, x := range v {
		tiers = append(tiers, Tier(x))
	}
	return Worst(tiers...)
}

// Validate refuses categories that AR4SI does not have.
func (v Vector) Validate() error {
	for name := range v {
		if !categories[name] {
			return fmt.Errorf("trustworthiness category %.64q is unknown", name)
		}
	}
	return nil
}

// Names returns the names of the submodules in their order: cpu0, the GPUs,
// image, config, model.
func (r *Result) Names() []string {
	names := []string{SubCPU}
	for i := 0; ; i++ {
		n := SubGPU(i)
		if _, ok := r.Submods[n]; !ok {
			break
		}
		names = append(names, n)
	}
	for _, n := range []string{SubImage, SubConfig, SubModel} {
		if _, ok := r.Submods[n]; ok {
			names = append(names, n)
		}
	}
	return names
}

// SubGPU returns the name of a GPU's submodule.
func SubGPU(i int) string { return fmt.Sprintf("gpu%d", i) }

// Status returns the worst status of the submodules.
func (r *Result) Status() Status {
	var all []Status
	for _, s := range r.Submods {
		all = append(all, s.Status)
	}
	return Worst(all...)
}

// Checks returns every check, in the order of an appraisal (Stage).
func (r *Result) Checks() []Check {
	var all []Check
	for _, n := range r.Names() {
		if s := r.Submods[n]; s != nil {
			all = append(all, s.Checks...)
		}
	}
	return Ordered(all)
}

// Failed returns the checks that failed, in the same order.
func (r *Result) Failed() []Check {
	var bad []Check
	for _, n := range r.Names() {
		s := r.Submods[n]
		if s == nil {
			continue
		}
		for i := range s.Checks {
			if s.Checks[i].Status == Fail {
				bad = append(bad, s.Checks[i])
			}
		}
	}
	if len(bad) > 1 {
		bad = Ordered(bad)
	}
	return bad
}

// Faults returns every failed check as a fault with its exit code, nil if
// the result is accepted.
func (r *Result) Faults() []*fault.Fault {
	var fs []*fault.Fault
	for _, c := range r.Failed() {
		msg := c.Reason
		if msg == "" {
			msg = "checking " + c.ID
		}
		fs = append(fs, &fault.Fault{Code: c.ID, Exit: ExitOf(c.ID), Msg: msg,
			Expected: c.Expected, Actual: c.Actual, Remedy: c.Remedy})
	}
	if len(fs) == 0 && !r.Accepted {
		fs = append(fs, fault.New(fault.ExitRefused, "evidence.refused", "report this: a refusal without a failed check", "evidence is not accepted"))
	}
	return fs
}

// Err returns the faults joined, nil if the result is accepted.
func (r *Result) Err() error {
	fs := r.Faults()
	if len(fs) == 0 {
		return nil
	}
	return &RefusedError{Result: r, faults: fs}
}

// RefusedError is the refusal of evidence. Its tree holds a fault for each
// failed check.
type RefusedError struct {
	Result *Result
	faults []*fault.Fault
}

// Error names every failed check.
func (e *RefusedError) Error() string {
	s := "evidence is refused:"
	for _, f := range e.faults {
		s += " " + f.Error() + ";"
	}
	return s[:len(s)-1]
}

// Unwrap returns the faults.
func (e *RefusedError) Unwrap() []error {
	out := make([]error, len(e.faults))
	for i, f := range e.faults {
		out[i] = f
	}
	return out
}
