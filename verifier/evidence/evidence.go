package evidence

import (
	"encoding/json"
	"errors"
	"fmt"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// Profile names this version of the evidence format.
const Profile = "urn:cocoon:evidence:1"

// MediaType is the media type of Evidence.
const MediaType = "application/vnd.cocoon.evidence+json"

// Types of CPU evidence.
const (
	TypeTDX   = "tdx"
	TypeSNP   = "snp"
	TypeSGX   = "sgx"
	TypeTPM   = "tpm"
	TypeAzTDX = "az-tdx"
	TypeAzSNP = "az-snp"
)

// Evidence is what a VM shows a verifier or a client.
type Evidence struct {
	Profile     string          `json:"profile"`
	Claims      Claims          `json:"claims"`
	Config      Config          `json:"config"`
	NonceInputs []digest.SHA256 `json:"nonce_inputs"` // sorted contributions to the nonce
	CPU         CPU             `json:"cpu"`
	GPUs        []GPU           `json:"gpus"`                 // never null
	Collateral  json.RawMessage `json:"collateral,omitempty"` // helps an offline verifier; never trusted unverified
	Stages      *Stages         `json:"stages,omitempty"`     // how the boot went; its hash is in the claims
}

// CPU is the evidence of the CPU's TEE, or of a TPM.
type CPU struct {
	Type          string         `json:"type"`
	Quote         []byte         `json:"quote"`                // TDX/SGX quote, SNP report, or TPMS_ATTEST
	Signature     []byte         `json:"signature,omitempty"`  // TPM and Azure only: TPMT_SIGNATURE
	HCLReport     []byte         `json:"hcl_report,omitempty"` // Azure only: the paravisor's report, from the virtual TPM
	TDQuote       []byte         `json:"td_quote,omitempty"`   // az-tdx only: the quote of the TDREPORT in HCLReport
	CertChain     [][]byte       `json:"cert_chain"`           // DER, leaf first: AK certificate, VCEK/VLEK; never null
	EventLog      []byte         `json:"event_log,omitempty"`  // TCG log (crypto-agile) or CCEL
	RuntimeEvents []RuntimeEvent `json:"runtime_events"`       // RTMR3 or PCR 15, in order; never null
}

// GPU is the evidence of one GPU.
type GPU struct {
	Report []byte   `json:"report"` // SPDM GET_MEASUREMENTS request and response
	Chain  [][]byte `json:"chain"`  // DER, leaf first
}

// Names of runtime events, in the order in which they must occur.
const (
	EventConfig = "config" // value: hex of the config's SHA-256
	EventModel  = "model"  // value: hex of a model's verity root, one event each
	EventGPU    = "gpu"    // value: count ":" mode
	EventLatch  = "latch"  // value: LatchModules
)

// LatchModules is the value of the latch event: no kernel module can be loaded
// any more, and the supervisor has read back from the kernel that lockdown,
// module signatures, switches and mounts are as the image wants them. It is
// recorded before any program but the supervisor starts.
const LatchModules = "kernel.modules_disabled"

// RuntimeEvent is one extension of RTMR3 or PCR 15 by the supervisor. The
// register is extended with the bank's hash of the JCS of the event.
type RuntimeEvent struct {
	Event string `json:"event"`
	Value string `json:"value"`
}

// Bytes returns what the register's hash is taken over.
func (e RuntimeEvent) Bytes() ([]byte, error) {
	const members = len(`{"event":"","value":""}`)
	b, ok := jcs.AppendString(append(make([]byte, 0, members+len(e.Event)+len(e.Value)), `{"event":`...), e.Event)
	if ok {
		if b, ok = jcs.AppendString(append(b, `,"value":`...), e.Value); ok {
			return append(b, '}'), nil
		}
	}
	return jcs.Marshal(e)
}

// RuntimeEvents returns the events that a supervisor with this config
// records, in order (DESIGN section 4, runtime measurements): those of the
// config, then the latch.
func RuntimeEvents(c *Config) ([]RuntimeEvent, error) {
	events, err := ConfigEvents(c)
	if err != nil {
		return nil, err
	}
	return append(events, LatchEvent()), nil
}

// LatchEvent returns the event that closes the runtime measurements.
func LatchEvent() RuntimeEvent { return RuntimeEvent{EventLatch, LatchModules} }

// ConfigEvents returns the events that are recorded as soon as the config is
// read.
func ConfigEvents(c *Config) ([]RuntimeEvent, error) {
	h, err := c.Hash()
	if err != nil {
		return nil, fmt.Errorf("hashing config: %w", err)
	}
	events := []RuntimeEvent{{EventConfig, h.String()}}
	for _, m := range c.ServedModels() {
		events = append(events, RuntimeEvent{EventModel, m.Verity.Root.String()})
	}
	return append(events, RuntimeEvent{EventGPU, fmt.Sprintf("%d:%s", c.GPUs.Count, c.GPUs.Mode)}), nil
}

// Parse reads evidence and checks its form: known profile and CPU type,
// bounded counts, valid config. It does not decide whether it is true.
func Parse(b []byte) (*Evidence, error) {
	e, _, err := parse(b)
	return e, err
}

// ParseHashed is Parse with the evidence's Hash, for who needs both: of a
// document in RFC 8785 form it is that of the bytes, and nothing is encoded
// again.
func ParseHashed(b []byte) (*Evidence, digest.SHA256, error) {
	e, exact, err := parse(b)
	if err != nil {
		return nil, digest.SHA256{}, err
	}
	if exact {
		return e, digest.Sum256(b), nil
	}
	h, err := e.Hash()
	return e, h, err
}

func parse(b []byte) (e *Evidence, exact bool, err error) {
	e = &Evidence{}
	if exact, err = jcs.DecodeExact(b, MaxEvidence, e); err != nil {
		return nil, false, fmt.Errorf("parsing evidence: %w", err)
	}
	if err := e.validate(); err != nil {
		return nil, false, fmt.Errorf("parsing evidence: %w", err)
	}
	return e, exact, nil
}

func (e *Evidence) validate() error {
	var errs []error
	if e.Profile != Profile {
		errs = append(errs, fmt.Errorf("profile %.64q is unknown", e.Profile))
	}
	if err := e.CPU.validate(); err != nil {
		errs = append(errs, err)
	}
	if len(e.NonceInputs) == 0 || len(e.NonceInputs) > MaxNonceInputs {
		errs = append(errs, fmt.Errorf("%d nonce inputs, want 1 to %d", len(e.NonceInputs), MaxNonceInputs))
	}
	if len(e.GPUs) > MaxGPUs {
		errs = append(errs, fmt.Errorf("%d gpus, at most %d", len(e.GPUs), MaxGPUs))
	}
	if err := e.Config.Validate(); err != nil {
		errs = append(errs, err)
	}
	if e.Stages != nil {
		errs = append(errs, e.Stages.Validate())
	}
	return errors.Join(errs...)
}

// validate checks the form of a CPU's evidence: a known type, the parts that
// go with it, and bounded counts.
func (c *CPU) validate() error {
	var errs []error
	switch c.Type {
	case TypeTDX, TypeSNP, TypeSGX, TypeTPM, TypeAzTDX, TypeAzSNP:
	default:
		errs = append(errs, fmt.Errorf("cpu type %.64q is unknown", c.Type))
	}
	az := c.Type == TypeAzTDX || c.Type == TypeAzSNP
	if az != (len(c.HCLReport) > 0) || (c.Type == TypeAzTDX) != (len(c.TDQuote) > 0) {
		errs = append(errs, fmt.Errorf("cpu type %.64q with hcl_report of %d bytes and td_quote of %d", c.Type, len(c.HCLReport), len(c.TDQuote)))
	}
	if len(c.CertChain) > 8 || len(c.RuntimeEvents) > 256 {
		errs = append(errs, errors.New("too many certificates or runtime events"))
	}
	return errors.Join(errs...)
}

// Marshal returns the evidence in RFC 8785 form.
func (e *Evidence) Marshal() ([]byte, error) { return jcs.Marshal(e) }

// Hash returns the SHA-256 of the JCS of the evidence, its identity in
// verdicts.
func (e *Evidence) Hash() (digest.SHA256, error) {
	sum, err := jcs.Hash(e)
	return digest.SHA256(sum), err
}

// GPUHash returns SHA-256(JCS(gpus)), which the claims carry.
func GPUHash(gpus []GPU) (digest.SHA256, error) {
	if gpus == nil {
		gpus = []GPU{}
	}
	sum, err := jcs.Hash(gpus)
	return digest.SHA256(sum), err
}
