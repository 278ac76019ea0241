// Package record boots a firmware file and watches what it measures, from the
// host's side of the TPM: every PCR_Extend command that the firmware sends,
// and the registers read from the TPM itself at the moment when the firmware
// hands over to the kernel. The guest has no part in it.
//
// PCR 0 and 7 of a firmware file are constant but not computed from it
// offline; this is how measurements/pcr/recorded.json is made.
package record

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cocoon/hostd/machine"
	"cocoon/hostd/qemu"
	"cocoon/hostd/spec"
	"cocoon/hostd/swtpm"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/pcr"
)

// Timeout bounds one boot up to the kernel, on a busy machine without
// hardware acceleration.
const Timeout = 6 * time.Minute

// exitMark is what PCR 5 is extended with when ExitBootServices has returned
// (TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.6); it is the
// last thing that firmware measures.
const exitMark = "Exit Boot Services Returned with Success"

// Options of a recording.
type Options struct {
	Firmware string // OVMF.fd
	Name     string // for people, such as ovmf-2026.08
	Image    string // directory whose kernel is booted
	Tools    swtpm.Tools
	Accel    string
	Clock    func() time.Time
	Logger   *slog.Logger
}

// Result is a recording.
type Result struct {
	Firmware    pcr.Firmware          `json:"firmware"`
	QEMUVersion string                `json:"qemu_version"`
	Recorded    time.Time             `json:"recorded"`
	Boots       []Boot                `json:"boots"`
	Unstable    []int                 `json:"unstable"` // registers that differ between the boots
	PCRs        map[int]digest.SHA256 `json:"pcrs"`     // of the first boot, 0 to 15
}

// Boot is one boot that was watched.
type Boot struct {
	MemoryMiB int                   `json:"memory_mib"`
	CPUs      int                   `json:"cpus"`
	PCRs      map[int]digest.SHA256 `json:"pcrs"`
	Extends   []Extend              `json:"extends"`
}

// shapes are the machines that a firmware is watched in: PCR 0 and 7 must not
// depend on memory size or processors.
var shapes = []struct{ mem, cpus int }{{512, 1}, {1024, 2}}

// Run records the firmware.
func Run(ctx context.Context, o Options) (*Result, error) {
	fw, err := os.ReadFile(o.Firmware)
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, "measure.firmware.unreadable", "give the path of an OVMF.fd; make deps installs one", "reading firmware: %w", err)
	}
	dir, err := os.MkdirTemp("", "cocoon-record-")
	if err != nil {
		return nil, fmt.Errorf("making directory: %w", err)
	}
	defer os.RemoveAll(dir)
	r := &Result{Recorded: o.Clock().UTC(), Unstable: []int{}}
	for i, shape := range shapes {
		b, version, err := boot(ctx, o, filepath.Join(dir, fmt.Sprint(i)), shape.mem, shape.cpus)
		if err != nil {
			return nil, err
		}
		r.QEMUVersion = version
		r.Boots = append(r.Boots, *b)
	}
	r.PCRs = r.Boots[0].PCRs
	for i := range 16 {
		if r.PCRs[i] != r.Boots[1].PCRs[i] {
			r.Unstable = append(r.Unstable, i)
		}
	}
	for _, i := range []int{0, 7} {
		if a, b := r.PCRs[i], r.Boots[1].PCRs[i]; a != b {
			return nil, fault.Mismatch(fault.ExitRefused, "measure.record.unstable", fmt.Sprintf("PCR %d of two boots of one firmware", i), a.String(), b.String(),
				"this firmware's register depends on the machine and cannot be recorded")
		}
	}
	s := &spec.Spec{Image: o.Image}
	cmdline, err := s.Cmdline()
	if err != nil {
		return nil, err
	}
	rule, err := cmdlineRule(r.Boots[0].Extends, cmdline)
	if err != nil {
		return nil, err
	}
	r.Firmware = pcr.Firmware{Name: o.Name, SHA256: digest.Sum256(fw), PCR0: r.PCRs[0], PCR7: r.PCRs[7],
		Provenance: pcr.ProvenanceRecorded, Cmdline: rule}
	return r, r.Firmware.Validate()
}

// boot watches one boot up to the kernel and takes the power away.
func boot(ctx context.Context, o Options, dir string, mem, cpus int) (*Boot, string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", fmt.Errorf("making directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	ca, err := swtpm.OpenCA(filepath.Join(dir, "ca"), "record", o.Clock)
	if err != nil {
		return nil, "", err
	}
	w := newWatch()
	tap := &swtpm.Tap{On: w.exchange}
	m, err := machine.Start(ctx, machine.Options{
		Spec: &spec.Spec{Version: 1, Name: "record", TEE: spec.TEEVTPM, MemoryMiB: mem, CPUs: cpus, Image: o.Image},
		Dir:  dir, Tools: o.Tools, Firmware: o.Firmware, Accel: o.Accel, AccelWhy: "for recording", CA: ca, TPM: tap.Interpose,
		Clock: o.Clock, Logger: o.Logger,
	})
	if err != nil {
		return nil, "", err
	}
	defer m.Stop(context.WithoutCancel(ctx), 0)
	var v struct {
		Package string `json:"package"`
		QEMU    struct{ Major, Minor, Micro int }
	}
	if err := m.QMP().Do(ctx, "query-version", nil, &v); err != nil {
		return nil, "", err
	}
	version := fmt.Sprintf("%d.%d.%d %s", v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro, v.Package)
	select {
	case <-w.done:
	case <-m.Done():
		s := m.State()
		return nil, "", fault.New(fault.ExitInternal, "measure.record.no_boot", "try the image with cocoon-hostd run", "recording: the machine ended before the kernel ran: %s", s.Reason)
	case <-ctx.Done():
		return nil, "", fault.New(fault.ExitInternal, "measure.record.no_boot", "see whether the machine is overloaded, and try the image with cocoon-hostd run",
			"recording: the firmware did not hand over to the kernel: %w", ctx.Err())
	}
	if w.err != nil {
		return nil, "", w.err
	}
	return &Boot{MemoryMiB: mem, CPUs: cpus, PCRs: w.pcrs, Extends: w.extends}, version, nil
}

// watch collects what firmware measures until it hands over.
type watch struct {
	mu      sync.Mutex
	over    bool
	extends []Extend
	pcrs    map[int]digest.SHA256
	err     error
	done    chan struct{}
}

// maxExtends bounds what is kept of one boot.
const maxExtends = 4096

func newWatch() *watch { return &watch{done: make(chan struct{})} }

func (w *watch) exchange(cmd, resp []byte, tpm transport.TPM) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	e, ok, err := ParseExtend(cmd)
	if err != nil || len(w.extends) >= maxExtends {
		w.finish(errors.Join(err, errors.New("recording: the firmware's TPM commands cannot be followed")))
		return
	}
	// Only what the TPM accepted counts.
	if !ok || len(resp) < 10 || binary.BigEndian.Uint32(resp[6:]) != 0 {
		return
	}
	w.extends = append(w.extends, e)
	if e.PCR == 5 && e.Digest == digest.SHA256(sha256.Sum256([]byte(exitMark))) {
		w.finish(w.read(tpm))
	}
}

func (w *watch) finish(err error) {
	w.over, w.err = true, err
	close(w.done)
}

// read reads the registers and holds them against the replay: two views that
// must agree, or something changed a register in a way that was not seen.
func (w *watch) read(tpm transport.TPM) error {
	w.pcrs = map[int]digest.SHA256{}
	replay := Replay(w.extends)
	var errs []error
	for i := range 16 {
		r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(uint(i))}}}}.Execute(tpm)
		if err != nil {
			return fmt.Errorf("reading PCR %d: %w", i, err)
		}
		if len(r.PCRValues.Digests) != 1 || len(r.PCRValues.Digests[0].Buffer) != 32 {
			return fmt.Errorf("reading PCR %d: no SHA-256 value", i)
		}
		w.pcrs[i] = digest.SHA256(r.PCRValues.Digests[0].Buffer)
		if w.pcrs[i] != replay[i] {
			errs = append(errs, fault.Mismatch(fault.ExitInternal, "measure.record.replay", fmt.Sprintf("PCR %d read from the TPM and replayed from the commands", i),
				replay[i].String(), w.pcrs[i].String(), "use the pinned firmware: make deps"))
		}
	}
	return errors.Join(errs...)
}

// cmdlineRule finds out from the first extension of PCR 9 how the firmware
// measures load options.
func cmdlineRule(extends []Extend, cmdline string) (pcr.CmdlineRule, error) {
	for _, e := range extends {
		if e.PCR != 9 {
			continue
		}
		switch e.Digest {
		case loadOptions("initrd=initrd " + cmdline):
			return pcr.CmdlineInitrdFirst, nil
		case loadOptions(cmdline + " initrd=initrd"):
			return pcr.CmdlineInitrdLast, nil
		}
		break
	}
	return "", fault.New(fault.ExitRefused, "measure.record.cmdline", "use the pinned firmware: make deps",
		"recording: the firmware measures the command line in no known form")
}

// loadOptions is the digest of a command line as EFI load options: UTF-16LE
// with a terminating NUL.
func loadOptions(s string) digest.SHA256 {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return sha256.Sum256(b)
}

// Recordings returns the result in the form that measurements/pcr reads.
func (r *Result) Recordings() *pcr.Recordings {
	return &pcr.Recordings{Format: 1, Firmwares: []pcr.Firmware{r.Firmware}}
}

// DefaultAccel is the accelerator for recordings: emulation measures the same
// and works everywhere.
const DefaultAccel = qemu.AccelTCG
