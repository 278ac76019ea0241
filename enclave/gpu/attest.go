package gpu

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"cocoon/enclave/gpu/wire"
	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/services"
	"cocoon/verifier/result"
)

const collateralRemedy = "make a bundle with cocoon gpu rim DRIVER VBIOS --export gpu-collateral.json and name it under fw_cfg in the VM's spec"

// Attest collects evidence for a random nonce and verifies it in full: chains,
// signatures, firmware, mode, topology, and the measurements against NVIDIA's
// reference manifests of the host's bundle (DESIGN section 2: at boot GPUs are
// attested once with a random nonce, fail closed, before the ready state).
func (m *Machine) Attest(ctx context.Context) error {
	var nonce [32]byte
	if _, err := io.ReadFull(m.o.Rand, nonce[:]); err != nil {
		return fmt.Errorf("making a nonce: %w", err)
	}
	items, err := m.items(ctx, nonce)
	if err != nil {
		return err
	}
	o := &nvgpu.Options{Roots: m.o.Roots, RIMRoots: m.o.RIMRoots, Clock: m.o.Clock, Nonce: nonce, GPUs: m.o.Expect.Count, Cache: m.cache}
	if err := m.collateral(ctx, items, o); err != nil {
		return err
	}
	found := nvgpu.Verify(items, o)
	if err := m.judge(found); err != nil {
		return err
	}
	m.attested = identities(found)
	m.o.Log.Info("GPUs attested", "devices", len(found.Devices), "mode", string(found.Topology.Mode), "until", found.NotAfter)
	return nil
}

// identities name the devices, sorted: kind, the device's identifier and the
// serial number of the certificate that NVIDIA's chain ends in for it.
func identities(found *nvgpu.Machine) []string {
	out := make([]string, len(found.Devices))
	for i, d := range found.Devices {
		out[i] = fmt.Sprintf("%s %s with certificate %s", d.Kind, d.PDI, d.UEID)
	}
	slices.Sort(out)
	return out
}

// judge refuses what failed, and what could not be checked unless the
// verifier's policy is the one to say whether that matters: revocation, for
// which an offline guest may have no answer, and the firmware ID, which old
// drivers and switches do not report.
func (m *Machine) judge(found *nvgpu.Machine) error {
	var errs, skipped []error
	for _, c := range found.Checks() {
		f := &fault.Fault{Code: c.ID, Exit: fault.ExitRefused, Msg: "attesting GPUs: " + c.Reason, Expected: c.Expected, Actual: c.Actual, Remedy: c.Remedy}
		mayLack := strings.HasPrefix(c.ID, "gpu.ocsp") || c.ID == "gpu.rim.ocsp" || c.ID == "gpu.fwid"
		switch {
		case c.Status == result.Fail:
			errs = append(errs, f)
		case c.Status == result.Skip && !mayLack:
			f.Remedy = collateralRemedy
			skipped = append(skipped, f)
		}
	}
	if len(errs) == 0 {
		errs = skipped // otherwise they follow from what failed
	}
	got := found.Topology.Mode
	good := m.o.Expect.Mode == ModePPCIE && got == nvgpu.PPCIE || m.o.Expect.Mode == ModeOn && (got == nvgpu.SPT || got == nvgpu.MPT)
	if !good {
		errs = append(errs, fault.Mismatch(fault.ExitRefused, CodeMode, "the mode that the GPUs attest", m.o.Expect.Mode, "mode "+string(got),
			"set the mode on the host with cocoon gpu prepare, or change gpus in the config"))
	}
	return errors.Join(errs...)
}

// collateral takes from the bundle what the devices need. The bundle is
// untrusted: Verify checks what comes out of it, and what is missing.
func (m *Machine) collateral(ctx context.Context, items []nvgpu.Item, o *nvgpu.Options) error {
	if len(m.o.Collateral) == 0 {
		return fault.New(fault.ExitNotReady, CodeCollateral, collateralRemedy, "looking for reference measurements: the host gave none")
	}
	bundle, err := services.ParseBundle(m.o.Collateral)
	if err != nil {
		return fault.New(fault.ExitParse, CodeCollateral, collateralRemedy, "reading the reference measurements: %w", err)
	}
	client, err := services.New(services.Options{Bundle: bundle, Offline: true, Roots: m.o.RIMRoots, Clock: m.o.Clock})
	if err != nil {
		return err
	}
	defer client.Close()
	bare := *o
	asked := map[string]bool{}
	status := func(chain []*x509.Certificate) {
		for i := range len(chain) - 1 {
			if key := string(chain[i].Raw); !asked[key] {
				asked[key] = true
				if der, _, err := client.RawOCSP(ctx, chain[i], chain[i+1], nil); err == nil {
					o.OCSP = append(o.OCSP, der)
				}
			}
		}
	}
	for _, d := range nvgpu.Verify(items, &bare).Devices {
		status(d.Issuers())
		for _, id := range d.RIMIDs() {
			if asked[id] {
				continue
			}
			asked[id] = true
			r, err := client.RIM(ctx, id)
			if err != nil {
				continue // Verify says which document is missing
			}
			o.RIMs = append(o.RIMs, r.Raw)
			status(r.Doc.Chain)
		}
	}
	return nil
}

// items collects the evidence of all devices for a nonce.
func (m *Machine) items(ctx context.Context, nonce [32]byte) ([]nvgpu.Item, error) {
	reply, err := m.ask(ctx, &wire.Request{Op: wire.OpCollect, Nonce: fmt.Sprintf("%x", nonce), Switches: m.switches() > 0})
	if err != nil {
		return nil, err
	}
	items := make([]nvgpu.Item, len(reply.Devices))
	for i, d := range reply.Devices {
		items[i] = nvgpu.Item{Report: d.Report, Chain: d.Chain}
	}
	return items, nil
}

// Collect returns the devices' evidence for a nonce over the claims, verified
// as far as that goes without collateral: it is the same devices in the same
// mode, and they answer this nonce. A verifier appraises the rest. It
// implements attest.GPUs.
func (m *Machine) Collect(ctx context.Context, nonce [32]byte) ([]evidence.GPU, error) {
	if m.attested == nil {
		return nil, fault.New(fault.ExitInternal, CodeIncomplete, "report this", "collecting the GPUs' evidence: %w", errNotAttested)
	}
	items, err := m.items(ctx, nonce)
	if err != nil {
		return nil, err
	}
	found := nvgpu.Verify(items, &nvgpu.Options{Roots: m.o.Roots, RIMRoots: m.o.RIMRoots, Clock: m.o.Clock, Nonce: nonce, GPUs: m.o.Expect.Count, NoRIM: true, Cache: m.cache})
	var errs []error
	for _, c := range found.Failed() {
		errs = append(errs, &fault.Fault{Code: c.ID, Exit: fault.ExitRefused, Msg: "collecting the GPUs' evidence: " + c.Reason, Expected: c.Expected, Actual: c.Actual, Remedy: c.Remedy})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	// The latch and the ready state are for the devices that were attested in
	// full at boot. One that was put in their place has not been reset, nor held
	// against NVIDIA's reference measurements.
	if now := identities(found); !slices.Equal(now, m.attested) {
		return nil, fault.Mismatch(fault.ExitRefused, CodeChanged, "the devices that were attested at boot", strings.Join(m.attested, ", "), strings.Join(now, ", "),
			"restart the VM: other devices are attested at its boot")
	}
	out := make([]evidence.GPU, len(items))
	for i, it := range items {
		out[i] = evidence.GPU{Report: it.Report, Chain: it.Chain}
	}
	return out, nil
}
