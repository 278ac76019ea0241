// Package teetest simulates the machines that package platform opens: the
// kernel's and the host's ends of a TD and of an SNP guest, as their
// documentation has them. Nothing here has seen hardware. Quotes and reports
// are those of package testfleet, under test authorities that no policy of
// production accepts.
package teetest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing/fstest"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/faketsm"
	"github.com/google/go-sev-guest/abi"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"cocoon/enclave/platform"
	"cocoon/enclave/sev"
	"cocoon/enclave/tdx"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/testfleet"
)

// Offsets in a TD 1.0 body of a quote (Intel, DCAP Quoting Library API, A.3).
const (
	bodyAttributes = 120
	bodyMRConfigID = 184
	bodyRTMR       = 328
	bodyReportData = 520
)

// TD is a simulated Intel TD. Tests change its fields before they open it.
type TD struct {
	Config     evidence.Config // that it was launched for
	Collateral json.RawMessage // Intel's, for whoever verifies its quotes
	MRConfigID [48]byte
	Attributes [8]byte
	RTMR       [4][48]byte
	CCEL       []byte
	NoRTMR     bool  // the kernel extends no registers
	NoTSM      bool  // the kernel has no configfs-tsm
	NoService  bool  // no quoting service answers
	Stolen     int   // so many reads find that another writer moved the generation on
	Failing    error // of the quote's attribute

	mu      sync.Mutex
	quotes  int
	machine *testfleet.Machine
}

// NewTD launches a TD of a fleet for the fleet's config.
func NewTD(f *testfleet.Fleet, now time.Time) (*TD, error) {
	m, err := f.Machine(testfleet.TDX, now)
	if err != nil {
		return nil, err
	}
	ev, err := show(m)
	if err != nil {
		return nil, err
	}
	t := &TD{Config: ev.Config, Collateral: ev.Collateral, CCEL: ev.CPU.EventLog, machine: m}
	_, err = m.Quote(func(body []byte) {
		copy(t.Attributes[:], body[bodyAttributes:])
		for i := range 3 { // the supervisor's own is untouched
			copy(t.RTMR[i][:], body[bodyRTMR+48*i:])
		}
	})
	return t, errors.Join(err, t.Launch(ev.Config))
}

// Launch launches the TD for another config.
func (t *TD) Launch(c evidence.Config) error {
	h, err := c.Hash()
	t.Config, t.MRConfigID = c, [48]byte{}
	copy(t.MRConfigID[:], h[:])
	return err
}

func show(m *testfleet.Machine) (*evidence.Evidence, error) {
	doc, err := m.Evidence(digest.Sum256([]byte("teetest")))
	if err != nil {
		return nil, err
	}
	return evidence.Parse(doc)
}

// Report is the TDX module's TDREPORT.
func (t *TD) Report(data [64]byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := make([]byte, tdx.ReportSize)
	b[0] = 0x81
	copy(b[128:], data[:])
	copy(b[512:], t.Attributes[:])
	copy(b[576:], t.MRConfigID[:])
	for i := range t.RTMR {
		copy(b[720+48*i:], t.RTMR[i][:])
	}
	return b, nil
}

// Extend is TDG.MR.RTMR.EXTEND.
func (t *TD) Extend(register int, d [48]byte) error {
	if t.NoRTMR {
		return tdx.ErrNoRegisters
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.RTMR[register] = sha512.Sum384(append(t.RTMR[register][:], d[:]...))
	return nil
}

// Quote is what the host's quoting enclave makes of a TDREPORT over data.
func (t *TD) Quote(data []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.quotes++
	return t.machine.Quote(func(body []byte) {
		copy(body[bodyAttributes:], t.Attributes[:])
		copy(body[bodyMRConfigID:], t.MRConfigID[:])
		for i := range t.RTMR {
			copy(body[bodyRTMR+48*i:], t.RTMR[i][:])
		}
		copy(body[bodyReportData:], data)
	})
}

// Quotes counts the quotes that were made.
func (t *TD) Quotes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.quotes
}

// Sources are its ends, for platform.Open.
func (t *TD) Sources() platform.Sources {
	return platform.Sources{
		TDX: t, RTMR: t, Root: fstest.MapFS{tdx.CCELPath: {Data: t.CCEL}},
		TSM: tsmOf(!t.NoTSM, "tdx_guest", &t.Stolen, func(attr string, data []byte) ([]byte, error) {
			switch {
			case attr != "outblob":
				return nil, os.ErrNotExist
			case t.Failing != nil:
				return nil, t.Failing
			case t.NoService:
				return []byte{}, nil
			}
			return t.Quote(data)
		}),
	}
}

// kernel is a kernel's configfs-tsm: the library's fake, with the errors that
// Linux gives where the fake gives texts.
type kernel struct {
	configfsi.Client
	sub     *faketsm.ReportSubsystem
	present bool
	last    error // of an attribute
}

func tsmOf(present bool, provider string, stolen *int, read func(attr string, data []byte) ([]byte, error)) configfsi.Client {
	k := &kernel{present: present}
	k.sub = &faketsm.ReportSubsystem{
		Random: rand.Reader,
		MakeEntry: func() *faketsm.ReportEntry {
			return &faketsm.ReportEntry{InAttrs: map[string]*faketsm.ReportAttributeState{"inblob": {}}}
		},
		CheckInAttr: func(_ *faketsm.ReportEntry, attr string, b []byte) error {
			if attr != "inblob" || len(b) != 64 {
				return unix.EINVAL
			}
			return nil
		},
		ReadAttr: func(e *faketsm.ReportEntry, attr string) (b []byte, err error) {
			if attr == "provider" {
				return []byte(provider + "\n"), nil
			}
			if *stolen > 0 {
				*stolen--
				e.WriteGeneration++
			}
			b, k.last = read(attr, e.InAttrs["inblob"].Value)
			return b, k.last
		},
	}
	k.Client = &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": k.sub}}
	return k
}

// MkdirTemp implements configfsi.Client.
func (k *kernel) MkdirTemp(dir, pattern string) (string, error) {
	if !k.present {
		return "", &os.PathError{Op: "mkdir", Path: dir, Err: unix.ENOENT}
	}
	return k.Client.MkdirTemp(dir, pattern)
}

// ReadFile implements configfsi.Client.
func (k *kernel) ReadFile(name string) ([]byte, error) {
	k.last = nil
	b, err := k.Client.ReadFile(name)
	if k.last != nil {
		err = &os.PathError{Op: "read", Path: name, Err: k.last}
	}
	return b, err
}

// Entries counts the entries that were left behind by a machine's requests.
func Entries(s platform.Sources) int {
	k, ok := s.TSM.(*kernel)
	if !ok {
		return 0
	}
	return len(k.sub.Entries)
}

// Guest is a simulated SEV-SNP guest. Tests change its fields before they open
// it.
type Guest struct {
	Config       evidence.Config // that it was launched for
	HostData     [32]byte
	Policy       uint64
	Measurement  [48]byte
	GuestSVN     uint32
	CommittedTCB uint64
	Chip         string // names the chip's secret
	NoTSM        bool   // the kernel has no configfs-tsm
	NoCerts      bool   // the host gives no certificates
	Stolen       int    // see TD
	Failing      error  // of the report's attribute, and of the device

	fleet *testfleet.Fleet
	raw   []byte
	vcek  []byte
}

// Offsets in a report (AMD 56860, table 23).
const (
	atGuestSVN    = 0x04
	atPolicy      = 0x08
	atReportData  = 0x50
	atMeasurement = 0x90
	atHostData    = 0xC0
	atCommitted   = 0x1E0
)

// NewGuest launches an SNP guest of a fleet for the fleet's config.
func NewGuest(f *testfleet.Fleet, now time.Time) (*Guest, error) {
	m, err := f.Machine(testfleet.SNP, now)
	if err != nil {
		return nil, err
	}
	ev, err := show(m)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	g := &Guest{fleet: f, raw: ev.CPU.Quote, vcek: ev.CPU.CertChain[0], Chip: "chip",
		Policy: le.Uint64(ev.CPU.Quote[atPolicy:]), GuestSVN: le.Uint32(ev.CPU.Quote[atGuestSVN:]), CommittedTCB: le.Uint64(ev.CPU.Quote[atCommitted:])}
	copy(g.Measurement[:], ev.CPU.Quote[atMeasurement:])
	return g, g.Launch(ev.Config)
}

// Launch launches the guest for another config.
func (g *Guest) Launch(c evidence.Config) error {
	h, err := c.Hash()
	g.Config, g.HostData = c, h
	return err
}

// report is the firmware's answer to MSG_REPORT_REQ.
func (g *Guest) report(data []byte) ([]byte, error) {
	b := append([]byte{}, g.raw...)
	le := binary.LittleEndian
	le.PutUint32(b[atGuestSVN:], g.GuestSVN)
	le.PutUint64(b[atPolicy:], g.Policy)
	copy(b[atReportData:], data)
	copy(b[atMeasurement:], g.Measurement[:])
	copy(b[atHostData:], g.HostData[:])
	le.PutUint64(b[atCommitted:], g.CommittedTCB)
	return b, g.fleet.SNPPKI().Sign(b, "leaf")
}

// table is the host's certificate table (AMD 56421, section 4.1.8.1).
func (g *Guest) table() []byte {
	if g.NoCerts {
		return nil
	}
	guid := uuid.MustParse(abi.VcekGUID)
	b := append([]byte{}, guid[:]...)
	b = binary.LittleEndian.AppendUint32(b, 2*abi.CertTableEntrySize)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(g.vcek)))
	b = append(b, make([]byte, abi.CertTableEntrySize)...)
	return append(b, g.vcek...)
}

// Report is SNP_GET_EXT_REPORT.
func (g *Guest) Report(data [64]byte) (raw, table []byte, err error) {
	if g.Failing != nil {
		return nil, nil, g.Failing
	}
	raw, err = g.report(data[:])
	return raw, g.table(), err
}

// Key is MSG_KEY_REQ: a key from the chip's secret and the fields that are
// asked for, within what the guest may ask.
func (g *Guest) Key(r sev.KeyRequest) ([32]byte, error) {
	if r.GuestSVN > g.GuestSVN || tcbAbove(r.TCB, g.CommittedTCB) {
		return [32]byte{}, errors.New("MSG_KEY_REQ: INVALID_PARAM")
	}
	h := hmac.New(sha256.New, []byte("chip secret "+g.Chip))
	field := func(f sev.Fields, v any) {
		if r.Fields&f != 0 {
			fmt.Fprintf(h, "%d=%x;", f, v)
		}
	}
	fmt.Fprintf(h, "%d;%d;", r.Fields, r.VMPL)
	field(sev.FieldPolicy, g.Policy)
	field(sev.FieldImageID, g.raw[0x20:0x30])
	field(sev.FieldFamilyID, g.raw[0x10:0x20])
	field(sev.FieldMeasurement, g.Measurement)
	field(sev.FieldGuestSVN, r.GuestSVN)
	field(sev.FieldTCB, r.TCB)
	return [32]byte(h.Sum(nil)), nil
}

// tcbAbove reports whether any component of a TCB_VERSION is above another's.
func tcbAbove(a, b uint64) bool {
	for i := 0; i < 64; i += 8 {
		if byte(a>>i) > byte(b>>i) {
			return true
		}
	}
	return false
}

// Sources are its ends, for platform.Open.
func (g *Guest) Sources() platform.Sources {
	return platform.Sources{
		SNP: g, Root: fstest.MapFS{},
		TSM: tsmOf(!g.NoTSM, "sev_guest", &g.Stolen, func(attr string, data []byte) ([]byte, error) {
			switch {
			case attr == "auxblob":
				return g.table(), nil
			case attr != "outblob":
				return nil, os.ErrNotExist
			case g.Failing != nil:
				return nil, g.Failing
			}
			return g.report(data)
		}),
	}
}
