package tcb

import (
	"slices"
	"strings"
	"time"
)

// covers reports whether every component of c from the given index on is at
// least that of the level.
func (c *Components) covers(level *Components, from int) bool {
	for i := from; i < len(c); i++ {
		if c[i] < level[i] {
			return false
		}
	}
	return true
}

// FindModule returns the TDX module identity for a major module version
// (TEE_TCB_SVN[1]), or nil. Identifiers compare without regard to case
// (TdxModuleCheck.cpp).
func (in *Info) FindModule(version uint8) *Module {
	const digits = "0123456789ABCDEF"
	want := [6]byte{'T', 'D', 'X', '_', digits[version>>4], digits[version&15]}
	for i := range in.Modules {
		if strings.EqualFold(in.Modules[i].ID, string(want[:])) {
			return &in.Modules[i]
		}
	}
	return nil
}

// Evaluate applies the rules of Intel's library (EvaluateTcb.cpp, steps
// 4.1.2.5.1 for SGX and 4.1.2.5.2 for TDX): the first level that the platform
// covers gives its status, the module and the QE may lower it. Where any of
// the three has no level the verdict is NotSupported and nothing else.
func (in *Info) Evaluate(p *Platform, qe *QEIdentity, qeSVN uint16) Verdict {
	tdx := in.ID == "TDX"
	// The two lowest components of a TDX level speak of the module of version
	// 1.0; with a module identity (version above 0) they are the identity's.
	major := p.TEETCBSVN[1]
	from := 0
	if tdx && major > 0 {
		from = 2
	}
	var platform *Level
	for i := range in.Levels {
		l := &in.Levels[i]
		if p.CPUSVN.covers(&l.SGX, 0) && p.PCESVN >= l.PCESVN && (!tdx || p.TEETCBSVN.covers(&l.TDX, from)) {
			platform = l
			break
		}
	}
	var module *SVNLevel
	if tdx && major > 0 {
		if id := in.FindModule(major); id != nil {
			module = findLevel(id.Levels, uint16(p.TEETCBSVN[0]))
		}
		if module == nil {
			return Verdict{Status: NotSupported}
		}
	}
	enclave := findLevel(qe.Levels, qeSVN)
	if platform == nil || enclave == nil {
		return Verdict{Status: NotSupported}
	}
	v := Verdict{Platform: platform.Status, QE: enclave.Status, Date: minTime(platform.Date, enclave.Date)}
	if module != nil {
		v.Module = module.Status
		v.Date = minTime(v.Date, module.Date)
		v.Advisories = mergeAdvisories(platform.Advisories, enclave.Advisories, module.Advisories)
	} else {
		v.Advisories = mergeAdvisories(platform.Advisories, enclave.Advisories, nil)
	}
	v.Status = Converge(v.Platform, v.Module, v.QE)
	return v
}

func findLevel(levels []SVNLevel, svn uint16) *SVNLevel {
	for i := range levels {
		if svn >= levels[i].ISVSVN {
			return &levels[i]
		}
	}
	return nil
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// mergeAdvisories joins lists in order, without repeats.
func mergeAdvisories(lists ...[]string) []string {
	n := 0
	for _, l := range lists {
		n += len(l)
	}
	if n == 0 {
		return nil
	}
	out := make([]string, 0, n)
	for _, l := range lists {
		for _, a := range l {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// Converge lowers a platform's status by those of its components (module and
// QE; empty where absent), as convergeTcbStatuses of Intel's EvaluateTcb.cpp.
func Converge(platform Status, components ...Status) Status {
	status := platform
	if slices.Contains(components, OutOfDate) {
		switch platform {
		case UpToDate, SWHardeningNeeded:
			status = OutOfDate
		case ConfigurationNeeded, ConfigurationAndSWHardeningNeeded:
			status = OutOfDateConfigurationNeeded
		}
	}
	if slices.Contains(components, Revoked) {
		status = Revoked
	}
	return status
}

// Relaunch joins the status of the TCB that a TD was launched under and that
// of the TCB which is running now, as Intel's TDRelaunchCheck.cpp: a TD that
// an up-to-date module has taken over needs a relaunch to be up to date.
func Relaunch(launch, current Status) Status {
	if launch != OutOfDate && launch != OutOfDateConfigurationNeeded {
		return launch
	}
	switch current {
	case UpToDate, SWHardeningNeeded:
		if launch == OutOfDate {
			return TDRelaunchAdvised
		}
		return TDRelaunchAdvisedConfigurationNeeded
	case ConfigurationNeeded, ConfigurationAndSWHardeningNeeded:
		return TDRelaunchAdvisedConfigurationNeeded
	}
	return launch
}
