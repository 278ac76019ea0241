// Package sev is the supervisor's side of an AMD SEV-SNP guest: reports with
// the host's certificates, and keys that the firmware derives from what was
// launched. In go 64 bytes of report data, out come reports.
//
// Definitions: AMD 56860 (SEV-SNP Firmware ABI), AMD 56421 (GHCB,
// certificate table), Linux Documentation/virt/coco/sev-guest.
package sev

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"cocoon/enclave/tsm"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/snp/report"
)

// Codes of faults.
const (
	CodeReport = "snp.report"         // a report cannot be had
	CodeConfig = "snp.config_differs" // the guest was launched for another config
)

// Guest is the machine.
type Guest struct {
	Device  Device
	Reports *tsm.Reporter
}

// Report returns a report over data, read and as bytes, and in DER the
// certificate of its key where the host gave one.
func (g *Guest) Report(ctx context.Context, data [64]byte) (r *report.Report, raw, cert []byte, err error) {
	raw, table, err := g.raw(ctx, data)
	if err != nil {
		return nil, nil, nil, fault.New(fault.ExitNotReady, CodeReport, "see the host's hypervisor log; the SNP firmware must be initialised", "asking the SNP firmware for a report: %w", err)
	}
	r, err = report.Parse(raw)
	if err == nil && r.ReportData != data {
		err = errors.New("it is over other data")
	}
	if err != nil {
		return nil, nil, nil, fault.New(fault.ExitRefused, CodeReport, "report this", "asking the SNP firmware for a report: %w", err)
	}
	return r, raw, leaf(raw, table, r.Signer), nil
}

// raw asks the kernel's common interface, and its own where there is none.
func (g *Guest) raw(ctx context.Context, data [64]byte) (raw, table []byte, err error) {
	b, err := g.Reports.Report(ctx, data)
	if err == nil {
		return b.Out, b.Aux, nil
	}
	if !errors.Is(err, tsm.ErrAbsent) {
		return nil, nil, err
	}
	raw, table, derr := g.Device.Report(data)
	if derr != nil {
		return nil, nil, errors.Join(err, derr)
	}
	return raw, table, nil
}

// leaf takes the certificate of the report's key from the host's table. The
// table is the host's word and may be missing or broken: a verifier fetches
// what evidence does not bring, so that is no fault here.
func leaf(raw, table []byte, s report.Signer) []byte {
	if len(table) == 0 || len(raw) != report.Size {
		return nil
	}
	_, t, err := report.Split(append(append([]byte{}, raw...), table...))
	if err != nil {
		return nil
	}
	return t.Leaf(s)
}

// Launched checks that the host launched the guest for this config: HOST_DATA
// is its hash (DESIGN section 4).
func (g *Guest) Launched(ctx context.Context, config digest.SHA256) error {
	r, _, _, err := g.Report(ctx, [64]byte{})
	if err != nil {
		return err
	}
	if r.HostData != config {
		return fault.Mismatch(fault.ExitRefused, CodeConfig, "the config that the guest was launched for (HOST_DATA)",
			config.String(), hex.EncodeToString(r.HostData[:]), "launch the guest with the SHA-256 of its config.json; hostd does")
	}
	return nil
}

// Debug reports whether the host may look into the guest.
func (g *Guest) Debug(ctx context.Context) (bool, error) {
	r, _, _, err := g.Report(ctx, [64]byte{})
	if err != nil {
		return false, fmt.Errorf("reading the guest's policy: %w", err)
	}
	return r.Policy&report.PolicyDebug != 0, nil
}
