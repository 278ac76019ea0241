package tdx

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"cocoon/enclave/tsm"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
)

// RuntimeRegister is the register that the supervisor extends (DESIGN section
// 4, runtime measurements).
const RuntimeRegister = 3

// CCELPath is the firmware's event log (ACPI table CCEL, UEFI specification
// section 38.4), as the kernel shows it.
const CCELPath = "sys/firmware/acpi/tables/data/CCEL"

// MaxCCEL bounds the log that is put into evidence, in bytes.
const MaxCCEL = 1 << 20

// Codes of faults.
const (
	CodeReport    = "tdx.report"             // the device gives no report
	CodeConfig    = "tdx.config_differs"     // the TD was launched for another config
	CodeUsed      = "measure.rtmr_not_fresh" // the register was extended before
	CodeDiffers   = "measure.rtmr_differs"   // extending did not have its effect
	CodeRegisters = "tdx.rtmr_absent"        // the kernel extends no registers
	CodeQGS       = "tdx.qgs_absent"         // no quoting service answers
	CodeQuote     = "tdx.quote"              // a quote cannot be had for another reason
	CodeLog       = "tdx.event_log_absent"   // the firmware left no log
)

// TD is the machine. Its fields are the kernel's and the host's ends of it.
type TD struct {
	Device    Device
	Registers Registers
	Reports   *tsm.Reporter
	QGS       Dial  // over vsock, where the kernel has no configfs-tsm; nil: not reachable
	Root      fs.FS // os.DirFS("/"), for the event log

	value   [48]byte // of the register, after the last extension
	touched bool
}

// Report returns the TD's own report over data.
func (t *TD) Report(data [64]byte) (*Report, error) {
	raw, err := t.Device.Report(data)
	var r *Report
	if err == nil {
		r, err = ParseReport(raw)
	}
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, CodeReport, "boot the published image in a TD", "asking the TDX module for a report: %w", err)
	}
	if r.ReportData != data {
		return nil, fault.New(fault.ExitRefused, CodeReport, "report this", "asking the TDX module for a report: it is over other data")
	}
	return r, nil
}

// Launched checks that the host launched the TD for this config: MRCONFIGID
// is its hash, then zeros (DESIGN section 4).
func (t *TD) Launched(config digest.SHA256) error {
	r, err := t.Report([64]byte{})
	if err != nil {
		return err
	}
	var want [48]byte
	copy(want[:], config[:])
	if r.MRConfigID != want {
		return fault.Mismatch(fault.ExitRefused, CodeConfig, "the config that the TD was launched for (MRCONFIGID)",
			hex.EncodeToString(want[:]), hex.EncodeToString(r.MRConfigID[:]), "launch the TD with the SHA-256 of its config.json; hostd does")
	}
	return nil
}

// Extend extends RTMR3 with the SHA-384 of each event, in order, and reads
// back from the TDX module what must have become of it. Before the first event
// the register must be zero: a value in it means that something ran before the
// supervisor did.
func (t *TD) Extend(events [][]byte) error {
	if !t.touched {
		if err := t.expect(CodeUsed, "RTMR3 before the first measurement", "launch the TD anew"); err != nil {
			return err
		}
		t.touched = true
	}
	for _, e := range events {
		d := sha512.Sum384(e)
		if err := t.Registers.Extend(RuntimeRegister, d); err != nil {
			if errors.Is(err, ErrNoRegisters) {
				return fault.New(fault.ExitNotReady, CodeRegisters, "boot an image with Linux 6.16 or newer", "measuring events: %w", err)
			}
			return fault.New(fault.ExitNotReady, CodeDiffers, "report this with the console log", "measuring events: %w", err)
		}
		t.value = sha512.Sum384(append(t.value[:], d[:]...))
	}
	return t.expect(CodeDiffers, "RTMR3 after measuring", "report this: something else extends the register")
}

func (t *TD) expect(code, what, remedy string) error {
	r, err := t.Report([64]byte{})
	if err != nil {
		return err
	}
	if got := r.RTMR[RuntimeRegister]; got != t.value {
		return fault.Mismatch(fault.ExitRefused, code, what, hex.EncodeToString(t.value[:]), hex.EncodeToString(got[:]), remedy)
	}
	return nil
}

// Quote returns a quote over data: by the kernel, or where it has no interface
// or its way to the host is shut, by the host's service over vsock.
func (t *TD) Quote(ctx context.Context, data [64]byte) ([]byte, error) {
	b, err := t.Reports.Report(ctx, data)
	if err == nil {
		return b.Out, nil
	}
	absent := errors.Is(err, tsm.ErrAbsent) || errors.Is(err, tsm.ErrService)
	if absent && t.QGS != nil {
		var q []byte
		r, rerr := t.Report(data)
		if rerr == nil {
			q, rerr = askQGS(ctx, t.QGS, r.Raw)
		}
		if rerr == nil {
			return q, nil
		}
		err = errors.Join(err, rerr)
	}
	if absent {
		return nil, fault.New(fault.ExitNotReady, CodeQGS,
			"start Intel's quote generation service (qgsd) on the host, register the platform (PCCS), and give the VM its socket: quote-generation-socket, or vsock port 4050",
			"quoting: %w", err)
	}
	return nil, fault.New(fault.ExitNotReady, CodeQuote, "see the host's quote generation service's log", "quoting: %w", err)
}

// EventLog returns the firmware's log.
func (t *TD) EventLog() ([]byte, error) {
	b, err := fs.ReadFile(t.Root, CCELPath)
	if err == nil && (len(b) == 0 || len(b) > MaxCCEL) {
		err = fmt.Errorf("%d bytes, want 1 to %d", len(b), MaxCCEL)
	}
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, CodeLog, "boot with a firmware for TDs (OVMF 2026.08 or newer), which leaves a CCEL", "reading event log: %w", err)
	}
	return b, nil
}
