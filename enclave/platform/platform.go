// Package platform is the machine that the supervisor runs on, of whatever
// kind: a TD, an SNP guest, or a virtual machine with a software TPM for
// development. It says what the machine is, checks that it was launched for
// the config that was read, measures runtime events, and makes the CPU's part
// of evidence.
package platform

import (
	"context"
	"fmt"
	"io/fs"
	"net"

	"github.com/google/go-configfs-tsm/configfs/configfsi"

	"cocoon/enclave/sev"
	"cocoon/enclave/tdx"
	"cocoon/enclave/tpmdev"
	"cocoon/enclave/tsm"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// Platform is one machine. Its methods are called one at a time.
type Platform interface {
	Kind() Kind
	// Launched checks that the host launched the machine for this config, where
	// the kind of machine can say so: HOST_DATA, MRCONFIGID (DESIGN section 4).
	Launched(ctx context.Context, config digest.SHA256) error
	// Measure extends the runtime register with events, in order, and keeps
	// them for evidence. An SNP guest has no such register.
	Measure(events ...evidence.RuntimeEvent) error
	// CPU returns the CPU's evidence over the claims.
	CPU(ctx context.Context, claims *evidence.Claims) (*evidence.CPU, error)
	// Debug reports whether the host may look into the machine by its launch
	// policy.
	Debug(ctx context.Context) (bool, error)
	Close() error
}

// TEE is a platform whose hardware signs 64 bytes of anybody's: a TD or an SNP
// guest.
type TEE interface {
	Platform
	// Over returns the CPU's evidence over report data.
	Over(ctx context.Context, data [64]byte) (*evidence.CPU, error)
}

// Sources are the kernel's and the host's ends of a machine, for Open.
type Sources struct {
	TSM  configfsi.Client
	TDX  tdx.Device
	RTMR tdx.Registers
	QGS  tdx.Dial // nil: not reachable over vsock
	SNP  sev.Device
	TPM  func() (*tpmdev.TPM, error)
	Root fs.FS // os.DirFS("/")
}

// Running returns those of the running machine. host dials a port of the host
// over vsock; nil without such a device.
func Running(root fs.FS, host func(ctx context.Context, port uint32) (net.Conn, error)) Sources {
	s := Sources{
		TSM: tsm.Linux{}, TDX: tdx.Linux{Path: DeviceTDX}, SNP: sev.Linux{Path: DeviceSNP}, Root: root,
		RTMR: tdx.Either{tdx.Sysfs{Dir: tdx.MeasurementsDir}, tdx.Configfs{Client: tsm.Linux{}}},
		TPM:  func() (*tpmdev.TPM, error) { return tpmdev.Open(tpmdev.Path) },
	}
	if host != nil {
		s.QGS = func(ctx context.Context) (net.Conn, error) { return host(ctx, tdx.QGSPort) }
	}
	return s
}

// Open opens a machine of a kind that Detect found.
func Open(k Kind, s Sources) (Platform, error) {
	switch k {
	case TDX:
		return &td{TD: tdx.TD{Device: s.TDX, Registers: s.RTMR, QGS: s.QGS, Root: s.Root,
			Reports: &tsm.Reporter{Client: s.TSM, Provider: tsm.ProviderTDX}}}, nil
	case SNP:
		return &guest{sev.Guest{Device: s.SNP, Reports: &tsm.Reporter{Client: s.TSM, Provider: tsm.ProviderSNP, Aux: true}}}, nil
	case VTPM:
		return openVTPM(s)
	}
	return nil, fmt.Errorf("opening platform: kind %q is unknown", k)
}

// eventBytes returns what the register's hash is taken over.
func eventBytes(events []evidence.RuntimeEvent) ([][]byte, error) {
	docs := make([][]byte, 0, len(events))
	for _, e := range events {
		b, err := e.Bytes()
		if err != nil {
			return nil, fmt.Errorf("encoding runtime event: %w", err)
		}
		docs = append(docs, b)
	}
	return docs, nil
}

// td is an Intel TD.
type td struct {
	tdx.TD
	events []evidence.RuntimeEvent
}

// Kind implements Platform.
func (*td) Kind() Kind { return TDX }

// Launched implements Platform.
func (t *td) Launched(_ context.Context, config digest.SHA256) error { return t.TD.Launched(config) }

// Measure implements Platform.
func (t *td) Measure(events ...evidence.RuntimeEvent) error {
	docs, err := eventBytes(events)
	if err != nil {
		return err
	}
	if err := t.Extend(docs); err != nil {
		return err
	}
	t.events = append(t.events, events...)
	return nil
}

// CPU implements Platform.
func (t *td) CPU(ctx context.Context, claims *evidence.Claims) (*evidence.CPU, error) {
	data, err := claims.ReportData()
	if err != nil {
		return nil, err
	}
	return t.Over(ctx, data)
}

// Over implements TEE.
func (t *td) Over(ctx context.Context, data [64]byte) (*evidence.CPU, error) {
	log, err := t.EventLog()
	if err != nil {
		return nil, err
	}
	quote, err := t.Quote(ctx, data)
	if err != nil {
		return nil, err
	}
	return &evidence.CPU{Type: evidence.TypeTDX, Quote: quote, CertChain: [][]byte{}, EventLog: log,
		RuntimeEvents: append([]evidence.RuntimeEvent{}, t.events...)}, nil
}

// Debug implements Platform.
func (t *td) Debug(context.Context) (bool, error) {
	r, err := t.Report([64]byte{})
	if err != nil {
		return false, err
	}
	return r.Debug(), nil
}

// Close implements Platform.
func (*td) Close() error { return nil }

// guest is an AMD SEV-SNP guest.
type guest struct{ sev.Guest }

// Kind implements Platform.
func (*guest) Kind() Kind { return SNP }

// Measure does nothing: an SNP guest has no register to extend after launch.
// Its config is HOST_DATA, and that the supervisor latches and checks what it
// checks follows from the launch digest.
func (*guest) Measure(...evidence.RuntimeEvent) error { return nil }

// CPU implements Platform.
func (g *guest) CPU(ctx context.Context, claims *evidence.Claims) (*evidence.CPU, error) {
	data, err := claims.ReportData()
	if err != nil {
		return nil, err
	}
	return g.Over(ctx, data)
}

// Over implements TEE.
func (g *guest) Over(ctx context.Context, data [64]byte) (*evidence.CPU, error) {
	_, raw, cert, err := g.Report(ctx, data)
	if err != nil {
		return nil, err
	}
	cpu := &evidence.CPU{Type: evidence.TypeSNP, Quote: raw, CertChain: [][]byte{}, RuntimeEvents: []evidence.RuntimeEvent{}}
	if cert != nil {
		cpu.CertChain = append(cpu.CertChain, cert)
	}
	return cpu, nil
}

// Close implements Platform.
func (*guest) Close() error { return nil }

// vtpm is a virtual machine with a software TPM.
type vtpm struct {
	tpm     *tpmdev.TPM
	quoter  Quoter // its keys, after Enrol
	log     []byte
	value   digest.SHA256
	chain   [][]byte // of the attestation key, after Enrol
	events  []evidence.RuntimeEvent
	touched bool
}

func openVTPM(s Sources) (*vtpm, error) {
	log, err := tpmdev.ReadEventLog(s.Root, tpmdev.EventLogPath)
	if err != nil {
		return nil, err
	}
	t, err := s.TPM()
	if err != nil {
		return nil, err
	}
	return &vtpm{tpm: t, log: log}, nil
}

// Kind implements Platform.
func (*vtpm) Kind() Kind { return VTPM }

// Launched has nothing to ask: a TPM does not know the config.
func (*vtpm) Launched(context.Context, digest.SHA256) error { return nil }

// Measure implements Platform.
func (v *vtpm) Measure(events ...evidence.RuntimeEvent) error {
	docs, err := eventBytes(events)
	if err != nil {
		return err
	}
	if !v.touched {
		v.touched = true
		v.value, err = v.tpm.Measure(docs)
	} else {
		v.value, err = v.tpm.Extend(v.value, docs)
	}
	if err != nil {
		return err
	}
	v.events = append(v.events, events...)
	return nil
}

// Register returns PCR 15 as it was read back after the last event.
func (v *vtpm) Register() digest.SHA256 { return v.value }

// Debug is false: the class says already that the host may look in.
func (*vtpm) Debug(context.Context) (bool, error) { return false, nil }

// Close implements Platform.
func (v *vtpm) Close() error { return v.tpm.Close() }
