// Package idle decides when a machine that is somebody's own also works for
// others: what is seen of the machine comes in, again and again; out go the
// orders to start a VM when its owner does not need the machine, and to drain
// and stop it when the owner is back, each with its reasons.
//
// The decision is a pure function of a policy, the moment and what came
// before, so that a day can be replayed ("cocoon idle simulate").
package idle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/strictyaml"
)

// MaxPolicy bounds a policy file in bytes.
const MaxPolicy = 64 << 10

// Policy says when the machine may serve. What is left out does not matter.
type Policy struct {
	Version  int    `json:"version"`  // 1
	Spec     string `json:"spec"`     // the VM that serves, a spec file
	Timezone string `json:"timezone"` // of the schedule, such as Europe/Berlin; default UTC
	// Schedule are the times when it may serve; none: always.
	Schedule []Window `json:"schedule,omitempty"`
	// MaxLoad is the load of the owner's programs, of one minute and per
	// processor, from which on the machine is busy; 0: any load will do. The
	// VM's own processors are taken off before.
	MaxLoad float64 `json:"max_load,omitempty"`
	// MaxGPU is the use of the GPU in per cent from which on it is the
	// owner's; a program of the owner's that has it open counts as well.
	MaxGPU int `json:"max_gpu_percent,omitempty"`
	// OwnGPU says that the GPU is never taken while the owner's programs have it.
	OwnGPU bool `json:"own_gpu,omitempty"`
	// IdleFor is how long, in seconds, all of it must hold and nobody must
	// have touched a terminal before the machine joins.
	IdleFor int `json:"idle_for_s,omitempty"`
	// Presence says that somebody who is there is the owner, who is back.
	Presence bool `json:"presence,omitempty"`
	// MainsOnly forbids serving from a battery.
	MainsOnly bool `json:"mains_only,omitempty"`
	// MinPrice is the lowest price, in nanoton per million tokens, for which
	// it serves; PriceFile has the price of now as one number.
	MinPrice  uint64 `json:"min_price,omitempty"`
	PriceFile string `json:"price_file,omitempty"`
	// Drain is how long, in seconds, running requests have when the owner is
	// back; default 120. Without any the VM is gone after YieldWithin.
	Drain int `json:"drain_s,omitempty"`
}

// Window is a time of the day on some days. One that ends before it begins
// ends on the next day.
type Window struct {
	Days []string `json:"days,omitempty"` // mon to sun, of its beginning; none: every day
	From string   `json:"from"`           // 22:00
	To   string   `json:"to"`             // 07:30; 24:00 is the day's end
}

// YieldWithin is the longest time in which a VM without running requests is
// gone once the owner is back.
const YieldWithin = 10 * time.Second

// stopWithin is what the guest has of it to end by itself: one look passes
// until the owner is seen, and one may until the deadline is.
const stopWithin = YieldWithin - 2*LookEvery

// DefaultDrain is the time of running requests where a policy names none.
const DefaultDrain = 120

var (
	clockRE = regexp.MustCompile(`^([01]\d|2[0-3]):[0-5]\d$|^24:00$`)
	days    = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts
)

// Load reads a policy file; paths in it are relative to its directory.
func Load(path string) (*Policy, error) {
	const hint = "docs/operators.md lists the fields of an idle policy"
	st, err := os.Stat(path)
	if err == nil && (!st.Mode().IsRegular() || st.Size() > MaxPolicy) {
		err = fmt.Errorf("%s is not a regular file of at most %d bytes", path, MaxPolicy)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fault.New(fault.ExitParse, "idle.policy.unreadable", hint, "reading idle policy: %w", err)
	}
	p, err := Parse(b)
	if err != nil {
		return nil, err
	}
	for _, s := range []*string{&p.Spec, &p.PriceFile} {
		if *s != "" && !filepath.IsAbs(*s) {
			*s = filepath.Join(filepath.Dir(path), *s)
		}
	}
	return p, nil
}

// Parse reads a policy, strictly.
func Parse(b []byte) (*Policy, error) {
	var p Policy
	err := strictyaml.Decode(b, MaxPolicy, &p)
	if err == nil {
		err = p.validate()
	}
	if err != nil {
		return nil, fault.New(fault.ExitParse, "idle.policy.malformed", "docs/operators.md lists the fields of an idle policy", "reading idle policy: %w", err)
	}
	return &p, nil
}

func (p *Policy) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Version != 1 {
		bad("version %d, want 1", p.Version)
	}
	if p.Spec == "" {
		bad("spec is missing")
	}
	if _, err := p.zone(); err != nil {
		bad("timezone %.64q is unknown", p.Timezone)
	}
	if len(p.Schedule) > 64 {
		bad("%d windows in the schedule, at most 64", len(p.Schedule))
	}
	for i, w := range p.Schedule {
		if !clockRE.MatchString(w.From) || !clockRE.MatchString(w.To) || w.From == "24:00" || w.From == w.To {
			bad("window %d: from %.16q to %.16q, want two times such as 22:00", i, w.From, w.To)
		}
		for _, d := range w.Days {
			if !slices.Contains(days, d) {
				bad("window %d: day %.16q, want mon to sun", i, d)
			}
		}
	}
	if p.MaxLoad < 0 || p.MaxLoad > 100 {
		bad("max_load %g, want 0 to 100", p.MaxLoad)
	}
	if p.MaxGPU < 0 || p.MaxGPU > 100 {
		bad("max_gpu_percent %d, want 0 to 100", p.MaxGPU)
	}
	for name, n := range map[string]int{"idle_for_s": p.IdleFor, "drain_s": p.Drain} {
		if n < 0 || n > 86400 {
			bad("%s %d, want 0 to 86400", name, n)
		}
	}
	if p.MinPrice > 0 && p.PriceFile == "" {
		bad("min_price without price_file")
	}
	return errors.Join(errs...)
}

func (p *Policy) zone() (*time.Location, error) {
	if p.Timezone == "" {
		return time.UTC, nil
	}
	return time.LoadLocation(p.Timezone)
}

func (p *Policy) drain() time.Duration {
	if p.Drain == 0 {
		return DefaultDrain * time.Second
	}
	return time.Duration(p.Drain) * time.Second
}

// Summary says in a line what the policy allows.
func (p *Policy) Summary() string {
	parts := []string{"any time"}
	if len(p.Schedule) > 0 {
		parts[0] = fmt.Sprintf("%d windows", len(p.Schedule))
	}
	if p.IdleFor > 0 {
		parts = append(parts, fmt.Sprintf("after %d s of rest", p.IdleFor))
	}
	for name, on := range map[string]bool{"load": p.MaxLoad > 0, "GPU use": p.MaxGPU > 0 || p.OwnGPU, "presence": p.Presence, "mains": p.MainsOnly, "price": p.MinPrice > 0} {
		if on {
			parts = append(parts, name)
		}
	}
	slices.Sort(parts[1:])
	return "serves " + strings.Join(parts, ", ")
}

// open says whether a time lies in a window of the schedule.
func (p *Policy) open(t time.Time) bool {
	if len(p.Schedule) == 0 {
		return true
	}
	zone, err := p.zone()
	if err != nil {
		return false // validate has refused it
	}
	t = t.In(zone)
	now := t.Format("15:04")
	on := func(w Window, day time.Weekday) bool {
		return len(w.Days) == 0 || slices.Contains(w.Days, days[day])
	}
	for _, w := range p.Schedule {
		if w.From < w.To {
			if on(w, t.Weekday()) && now >= w.From && now < w.To {
				return true
			}
			continue
		}
		if on(w, t.Weekday()) && now >= w.From || on(w, (t.Weekday()+6)%7) && now < w.To {
			return true
		}
	}
	return false
}
