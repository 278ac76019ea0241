// Package doctor says whether a machine can serve: what is read of a host
// comes in; out go checks, each with what was found and what to do, and a
// verdict: ready for production, for development, or not.
//
// Nothing here is trusted by anyone. A guest proves what it runs on; the
// doctor spares its owner the failed attempt.
//
// Sources: Linux Documentation/arch/x86/tdx.rst, amd-memory-encryption.rst,
// admin-guide/hw-vuln, ABI/testing/sysfs-bus-pci; Intel's TDX Enabling Guide
// (BIOS settings, registration); AMD 58207 (SEV firmware and BIOS settings);
// NVIDIA's Deployment Guide for confidential computing and gpu-admin-tools.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cocoon/hostd/vfio"
	"cocoon/internal/fault"
	"cocoon/verifier/collateral/forecast"
)

// Timeout bounds a whole examination; what has not answered by then counts as
// not reachable.
const Timeout = 4 * time.Second

// System is the machine that is examined.
type System interface {
	vfio.System
	// Run returns the standard output of a program.
	Run(ctx context.Context, name string, args ...string) ([]byte, error)
	// Dial says whether a TCP connection to HOST:PORT can be opened.
	Dial(ctx context.Context, addr string) error
	// FreeBytes is the space that is free in the file system of a directory,
	// or of its nearest parent that exists.
	FreeBytes(dir string) (uint64, error)
	// ClockSynchronised says whether the kernel's clock is disciplined.
	ClockSynchronised() (bool, error)
	Now() time.Time
	// Root says whether this process may read and change everything.
	Root() bool
}

// Options of an examination. What is left out is reported as skipped.
type Options struct {
	System System
	// StateDir is where hostd keeps what VMs write.
	StateDir string
	// Firmware is the OVMF image that VMs boot, an io/fs name; KnownFirmware
	// says which are published, by SHA-256 in hex.
	Firmware      string
	KnownFirmware map[string]string
	// Reach are further addresses that guests have to reach: gateways,
	// verifiers.
	Reach []string
	// Driver is the version of NVIDIA's driver in the image.
	Driver string
	// RIM asks for reference measurements of a driver and a VBIOS, of which
	// either may be empty; the error says why they cannot be had.
	RIM func(ctx context.Context, arch, driver, vbios string) error
	// Platform asks whether a PCCS has the certificate of this TDX platform, and
	// returns its FMSPC. It gets what the quote generation service is told to
	// ask, which may be empty, and whether it takes any TLS certificate.
	Platform func(ctx context.Context, pccs string, anyCertificate bool) (fmspc string, err error)
	// Ledger reads proven state of the TON network.
	Ledger func(ctx context.Context) (*Ledger, error)
	// Forecast judges the platform's TCB now and in a year.
	Forecast func(ctx context.Context) (*forecast.Report, error)
	// IdlePolicy reads the idle policy and says what it allows.
	IdlePolicy func() (string, error)
}

// Ledger is what was proven of the TON network.
type Ledger struct {
	Servers   int    // that the configuration names
	Reachable int    // of them
	Seqno     uint32 // of the newest proven master block
	// Balance is that of the wallet that pays for messages, in nanoton;
	// negative: none was named.
	Balance int64
	// Low is the balance below which the wallet may run dry.
	Low int64
}

// Status is the outcome of a check.
type Status string

// Outcomes.
const (
	Pass Status = "pass"
	Fail Status = "fail"
	Warn Status = "warn" // serves, but not for long, not well, or not everything
	Skip Status = "skip" // does not apply, or could not be looked at
)

// Check is one finding. IDs never change.
type Check struct {
	ID      string `json:"id"`
	Status  Status `json:"status"`
	Finding string `json:"finding"`
	Remedy  string `json:"remedy"`
}

// Verdicts.
const (
	Production  = "production"
	Development = "development"
	NotReady    = "no"
)

// Report is the outcome of an examination.
type Report struct {
	Ready  string  `json:"ready"`
	Checks []Check `json:"checks"`

	fixes []Fix
}

// need says who cannot do without a check.
type need int

const (
	forInfo        need = iota // nobody
	forProduction              // a TEE that serves
	forDevelopment             // even a development VM
)

// item is a check with what it is needed for.
type item struct {
	Check
	need need
	// unseen marks a check that could not be looked at: what production
	// needs must have been seen.
	unseen bool
	fix    *Fix
}

func pass(id, format string, args ...any) item {
	return item{Check: Check{ID: id, Status: Pass, Finding: fmt.Sprintf(format, args...)}}
}

func skip(id, format string, args ...any) item {
	return item{Check: Check{ID: id, Status: Skip, Finding: fmt.Sprintf(format, args...)}}
}

func warn(id, remedy, format string, args ...any) item {
	return item{Check: Check{ID: id, Status: Warn, Finding: fmt.Sprintf(format, args...), Remedy: remedy}}
}

func fail(n need, id, remedy, format string, args ...any) item {
	return item{Check: Check{ID: id, Status: Fail, Finding: fmt.Sprintf(format, args...), Remedy: remedy}, need: n}
}

// unseen is a check that needs rights or a program that are not there.
func unseen(n need, id, remedy, format string, args ...any) item {
	return item{Check: Check{ID: id, Status: Skip, Finding: fmt.Sprintf(format, args...), Remedy: remedy}, need: n, unseen: true}
}

func (i item) with(f *Fix) item {
	i.fix = f
	return i
}

// Run examines a machine. It takes at most Timeout and always gives a report.
func Run(ctx context.Context, o Options) *Report {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	h := look(ctx, o.System)
	groups := []func(context.Context, *host, *Options) []item{cpuChecks, tdxChecks, snpChecks, softwareChecks, ioChecks, gpuChecks, rimChecks,
		resourceChecks, reachChecks, ledgerChecks, policyChecks, forecastChecks}
	parts := make([][]item, len(groups))
	var wg sync.WaitGroup
	for i, g := range groups {
		wg.Go(func() { parts[i] = g(ctx, h, &o) })
	}
	wg.Wait()
	return report(slices.Concat(parts...))
}

// report judges: ready for production is what failed in nothing that a TEE
// needs, with all of that seen.
func report(items []item) *Report {
	r := &Report{Ready: Production, Checks: make([]Check, 0, len(items))}
	for _, it := range items {
		r.Checks = append(r.Checks, it.Check)
		if it.fix != nil {
			r.fixes = append(r.fixes, *it.fix)
		}
		switch {
		case it.Status == Fail && it.need == forDevelopment:
			r.Ready = NotReady
		case r.Ready == Production && it.need == forProduction && (it.Status == Fail || it.unseen):
			r.Ready = Development
		}
	}
	return r
}

// Get returns a check by its id.
func (r *Report) Get(id string) (Check, bool) {
	for _, c := range r.Checks {
		if c.ID == id {
			return c, true
		}
	}
	return Check{}, false
}

// Err says as an error what stands between the machine and production: nil,
// or a fault with exit code 6 (not ready) or 7 (development only).
func (r *Report) Err() error {
	exit, what := fault.ExitNotReady, "this machine cannot serve"
	switch r.Ready {
	case Production:
		return nil
	case Development:
		exit, what = fault.ExitDevOnly, "this machine can serve for development only"
	}
	var bad []string
	for _, c := range r.Checks {
		if c.Status == Fail {
			bad = append(bad, c.ID)
		}
	}
	if len(bad) == 0 {
		bad = []string{"what was skipped"}
	}
	return fault.New(exit, "doctor."+r.Ready, "follow the remedies of: "+strings.Join(bad, ", "), "examining the machine: %s", what)
}
