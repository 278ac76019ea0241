package evidence

import (
	"errors"
	"fmt"

	"cocoon/internal/jcs"
	"cocoon/internal/lazyre"
	"cocoon/measurements/digest"
)

// StagesVersion is the version of the stage record that is written and read.
const StagesVersion = 1

// Limits on a stage record.
const (
	MaxStages  = 64
	maxStageMS = int64(1) << 40 // 34 years
)

// Statuses of a stage in a record.
const (
	StageRunning = "running"
	StageOK      = "ok"
	StageFailed  = "failed"
)

// Stages is the supervisor's record of its boot: what ran, in order, until the
// evidence was collected. The claims carry its hash, so it is the measured
// supervisor's word; its durations are by the guest's clock, which is the
// host's. It explains a boot and decides nothing.
type Stages struct {
	Version int     `json:"version"` // StagesVersion
	List    []Stage `json:"list"`    // 1 to MaxStages, in the order in which they ran
}

// Stage is one stage of a boot.
type Stage struct {
	Name   string `json:"name"`
	Status string `json:"status"`         // running, ok, failed
	MS     int64  `json:"ms"`             // duration in milliseconds, 0 while it runs
	Code   string `json:"code,omitempty"` // of the failure, such as pack.root_differs
}

var (
	stageRE = lazyre.New(`^[a-z0-9][a-z0-9-]{0,31}$`)
	codeRE  = lazyre.New(`^[a-z0-9_]{1,32}(\.[a-z0-9_]{1,32}){0,4}$`)
)

// Validate checks the form. Stages run one after the other and the first that
// fails ends the boot: all but the last have passed.
func (s *Stages) Validate() error {
	if s.Version != StagesVersion {
		return fmt.Errorf("stage record of version %d, want %d", s.Version, StagesVersion)
	}
	if len(s.List) == 0 || len(s.List) > MaxStages {
		return fmt.Errorf("%d stages, want 1 to %d", len(s.List), MaxStages)
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	seen := make(map[string]bool, len(s.List))
	for i, g := range s.List {
		switch {
		case !stageRE().MatchString(g.Name):
			bad("stage name %.48q is not of the form a-z0-9-", g.Name)
		case seen[g.Name]:
			bad("stage %s twice", g.Name)
		case g.Status != StageRunning && g.Status != StageOK && g.Status != StageFailed:
			bad("stage %s has the unknown status %.16q", g.Name, g.Status)
		case g.Status != StageOK && i != len(s.List)-1:
			bad("stage %s is %s, and %.48q ran after it", g.Name, g.Status, s.List[i+1].Name)
		case g.MS < 0 || g.MS > maxStageMS || g.Status == StageRunning && g.MS != 0:
			bad("stage %s took %d ms", g.Name, g.MS)
		case (g.Status == StageFailed) != (g.Code != ""), g.Code != "" && !codeRE().MatchString(g.Code):
			bad("stage %s is %s with the code %.48q", g.Name, g.Status, g.Code)
		}
		seen[g.Name] = true
	}
	return errors.Join(errs...)
}

// Hash returns the SHA-256 of the JCS of the record, which the claims carry.
func (s *Stages) Hash() (digest.SHA256, error) {
	sum, err := jcs.Hash(s)
	return digest.SHA256(sum), err
}
