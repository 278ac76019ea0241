package tcb

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// Limits on a document. Intel's largest has 21 levels.
const (
	maxLevels     = 256
	maxModules    = 256
	maxAdvisories = 256
)

// fields records which members were there, a bit each.
type fields uint32

func (f *fields) has(bit int) { *f |= 1 << bit }

// ParseInfo reads a TCB info document ("tcbInfo" of Intel's PCS API v4, the
// bytes that are signed). Version 3, identifiers SGX and TDX, TCB type 0 and
// statuses that Intel defines are accepted; missing, duplicate and malformed
// members and duplicate levels are refused. Levels are put into the order in
// which Intel's library looks at them, which is the one they are signed in.
func ParseInfo(doc []byte) (*Info, error) {
	s := &scanner{b: doc}
	in := &Info{}
	var got fields
	hasModules := false
	s.object(func(key []byte) {
		switch string(key) {
		case "id":
			in.ID = string(s.str())
			got.has(0)
		case "version":
			in.Version = int(s.uint(math.MaxInt32))
			got.has(1)
		case "issueDate":
			in.IssueDate = s.time()
			got.has(2)
		case "nextUpdate":
			in.NextUpdate = s.time()
			got.has(3)
		case "fmspc":
			s.hex(in.FMSPC[:])
			got.has(4)
		case "pceId":
			s.hex(in.PCEID[:])
			got.has(5)
		case "tcbType":
			in.TCBType = int(s.uint(math.MaxInt32))
			got.has(6)
		case "tcbEvaluationDataNumber":
			in.Evaluation = int(s.uint(math.MaxInt32))
			got.has(7)
		case "tdxModule":
			m := s.module(false)
			in.Module = &m
		case "tdxModuleIdentities":
			hasModules = true
			s.array(maxModules, func(int) { in.Modules = append(in.Modules, s.module(true)) })
		case "tcbLevels":
			in.Levels = make([]Level, 0, 16)
			s.array(maxLevels, func(int) { in.Levels = append(in.Levels, s.level()) })
			got.has(8)
		default:
			s.skip()
		}
	})
	s.end()
	if s.err == nil {
		s.err = in.check(got, hasModules)
	}
	if s.err != nil {
		return nil, fmt.Errorf("parsing TCB info: %w", s.err)
	}
	return in, nil
}

func (in *Info) check(got fields, hasModules bool) error {
	switch {
	case got != 1<<9-1:
		return fmt.Errorf("members are missing (mask %#x)", got)
	case in.Version != 3:
		return fmt.Errorf("version %d is not supported", in.Version)
	case in.TCBType != 0:
		return fmt.Errorf("TCB type %d is not supported", in.TCBType)
	case in.ID != "SGX" && in.ID != "TDX":
		return fmt.Errorf("identifier %q is not supported", in.ID)
	case in.ID == "SGX" && (in.Module != nil || hasModules):
		return fmt.Errorf("SGX TCB info has TDX members")
	case in.ID == "TDX" && in.Module == nil:
		return fmt.Errorf("TDX TCB info has no tdxModule")
	case hasModules && len(in.Modules) == 0:
		return fmt.Errorf("tdxModuleIdentities is empty")
	case len(in.Levels) == 0:
		return fmt.Errorf("there are no TCB levels")
	case !in.IssueDate.Before(in.NextUpdate):
		return fmt.Errorf("next update is not after issue date")
	}
	for i := range in.Levels {
		if in.ID == "TDX" && !in.Levels[i].HasTDX {
			return fmt.Errorf("TCB level %d has no tdxtcbcomponents", i)
		}
	}
	tdx := in.ID == "TDX"
	cmp := func(a, b Level) int { return compareLevels(&a, &b, tdx) }
	if !slices.IsSortedFunc(in.Levels, cmp) {
		slices.SortStableFunc(in.Levels, cmp)
	}
	for i := 1; i < len(in.Levels); i++ {
		if compareLevels(&in.Levels[i-1], &in.Levels[i], tdx) == 0 {
			return fmt.Errorf("two TCB levels are the same")
		}
	}
	for i := range in.Modules {
		for j := range in.Modules[:i] {
			if in.Modules[i].ID == in.Modules[j].ID {
				return fmt.Errorf("two TDX module identities are %q", in.Modules[i].ID)
			}
		}
	}
	return nil
}

// compareLevels orders levels from the highest down, by SGX components, then
// PCESVN, then TDX components, as Intel's library does (TcbLevel.cpp).
func compareLevels(a, b *Level, tdx bool) int {
	if c := bytes.Compare(b.SGX[:], a.SGX[:]); c != 0 {
		return c
	}
	if c := int(b.PCESVN) - int(a.PCESVN); c != 0 || !tdx {
		return c
	}
	return bytes.Compare(b.TDX[:], a.TDX[:])
}

func (s *scanner) level() Level {
	var l Level
	var got fields
	s.object(func(key []byte) {
		switch string(key) {
		case "tcb":
			var tcb fields
			s.object(func(key []byte) {
				switch string(key) {
				case "sgxtcbcomponents":
					s.components(&l.SGX)
					tcb.has(0)
				case "tdxtcbcomponents":
					s.components(&l.TDX)
					l.HasTDX = true
				case "pcesvn":
					l.PCESVN = uint16(s.uint(math.MaxUint16))
					tcb.has(1)
				default:
					s.skip()
				}
			})
			if tcb != 3 {
				s.fail("a TCB lacks members")
			}
			got.has(0)
		case "tcbDate":
			l.Date = s.time()
			got.has(1)
		case "tcbStatus":
			l.Status = s.status(UpToDate, SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded,
				OutOfDate, OutOfDateConfigurationNeeded, Revoked)
			got.has(2)
		case "advisoryIDs":
			l.Advisories = s.advisories()
		default:
			s.skip()
		}
	})
	if got != 7 {
		s.fail("a TCB level lacks members")
	}
	return l
}

func (s *scanner) components(out *Components) {
	n := s.array(len(out), func(i int) {
		has := false
		s.object(func(key []byte) {
			if string(key) == "svn" {
				out[i] = uint8(s.uint(math.MaxUint8))
				has = true
				return
			}
			s.skip() // category and type are for people
		})
		if !has {
			s.fail("a TCB component has no svn")
		}
	})
	if n != len(out) {
		s.fail("%d TCB components, not %d", n, len(out))
	}
}

func (s *scanner) module(identity bool) Module {
	var m Module
	var got fields
	s.object(func(key []byte) {
		switch string(key) {
		case "id":
			m.ID = string(s.str())
			got.has(3)
		case "mrsigner":
			s.hex(m.MRSigner[:])
			got.has(0)
		case "attributes":
			s.hex(m.Attributes[:])
			got.has(1)
		case "attributesMask":
			s.hex(m.AttributesMask[:])
			got.has(2)
		case "tcbLevels":
			m.Levels = s.svnLevels(math.MaxUint8, UpToDate, OutOfDate, Revoked)
			got.has(4)
		default:
			s.skip()
		}
	})
	if got&7 != 7 || (identity && got != 31) {
		s.fail("a TDX module lacks members")
	}
	return m
}

// svnLevels reads the levels of an enclave or a module, best first.
func (s *scanner) svnLevels(max uint64, allowed ...Status) []SVNLevel {
	var out []SVNLevel
	s.array(maxLevels, func(int) {
		var l SVNLevel
		var got fields
		s.object(func(key []byte) {
			switch string(key) {
			case "tcb":
				s.object(func(key []byte) {
					if string(key) == "isvsvn" {
						l.ISVSVN = uint16(s.uint(max))
						got.has(0)
						return
					}
					s.skip()
				})
			case "tcbDate":
				l.Date = s.time()
				got.has(1)
			case "tcbStatus":
				l.Status = s.status(allowed...)
				got.has(2)
			case "advisoryIDs":
				l.Advisories = s.advisories()
			default:
				s.skip()
			}
		})
		if got != 7 {
			s.fail("an ISVSVN level lacks members")
		}
		out = append(out, l)
	})
	slices.SortStableFunc(out, func(a, b SVNLevel) int { return int(b.ISVSVN) - int(a.ISVSVN) })
	for i := 1; i < len(out); i++ {
		if out[i-1].ISVSVN == out[i].ISVSVN {
			s.fail("two levels have ISVSVN %d", out[i].ISVSVN)
		}
	}
	if len(out) == 0 {
		s.fail("there are no ISVSVN levels")
	}
	return out
}

func (s *scanner) status(allowed ...Status) Status {
	raw := s.str()
	for _, a := range allowed {
		if string(raw) == string(a) {
			return a
		}
	}
	s.fail("unknown TCB status %q", raw)
	return NotSupported
}

func (s *scanner) advisories() []string {
	var out []string
	s.array(maxAdvisories, func(int) { out = append(out, string(s.str())) })
	return out
}

// ParseQEIdentity reads an enclave identity document ("enclaveIdentity" of
// Intel's PCS API v4, the bytes that are signed), version 2, with the
// identifier QE or TD_QE.
func ParseQEIdentity(doc []byte) (*QEIdentity, error) {
	s := &scanner{b: doc}
	q := &QEIdentity{}
	var got fields
	s.object(func(key []byte) {
		switch string(key) {
		case "id":
			q.ID = string(s.str())
			got.has(0)
		case "version":
			q.Version = int(s.uint(math.MaxInt32))
			got.has(1)
		case "issueDate":
			q.IssueDate = s.time()
			got.has(2)
		case "nextUpdate":
			q.NextUpdate = s.time()
			got.has(3)
		case "tcbEvaluationDataNumber":
			q.Evaluation = int(s.uint(math.MaxInt32))
			got.has(4)
		case "miscselect":
			s.hex(q.MiscSelect[:])
			got.has(5)
		case "miscselectMask":
			s.hex(q.MiscSelectMask[:])
			got.has(6)
		case "attributes":
			s.hex(q.Attributes[:])
			got.has(7)
		case "attributesMask":
			s.hex(q.AttributesMask[:])
			got.has(8)
		case "mrsigner":
			s.hex(q.MRSigner[:])
			got.has(9)
		case "isvprodid":
			q.ISVProdID = uint16(s.uint(math.MaxUint16))
			got.has(10)
		case "tcbLevels":
			q.Levels = s.svnLevels(math.MaxUint16, UpToDate, OutOfDate, ConfigurationNeeded,
				OutOfDateConfigurationNeeded, Revoked)
			got.has(11)
		default:
			s.skip()
		}
	})
	s.end()
	if s.err == nil {
		switch {
		case got != 1<<12-1:
			s.err = fmt.Errorf("members are missing (mask %#x)", got)
		case q.Version != 2:
			s.err = fmt.Errorf("version %d is not supported", q.Version)
		case q.ID != "QE" && q.ID != "TD_QE":
			s.err = fmt.Errorf("identifier %q is not supported", q.ID)
		case !q.IssueDate.Before(q.NextUpdate):
			s.err = fmt.Errorf("next update is not after issue date")
		}
	}
	if s.err != nil {
		return nil, fmt.Errorf("parsing QE identity: %w", s.err)
	}
	return q, nil
}
