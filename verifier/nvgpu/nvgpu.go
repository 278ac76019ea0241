// Package nvgpu verifies what NVIDIA GPUs and NVSwitches attest: the report
// that a device signed for a nonce, its certificate chain up to NVIDIA's
// pinned device root, the firmware that its key was made for, revocation, and
// its measurements against NVIDIA's signed reference integrity manifests
// (RIMs). Verify takes all devices of one machine and also says whether they
// are one machine: distinct, of one mode, as many as claimed and, in protected
// PCIe, wired to each other.
//
// In come untrusted bytes, out comes a Machine with a list of checks for each
// device. No service is asked: RIMs and OCSP responses are given and verified
// here. A GPU report is not bound to a virtual machine: who uses it must have
// it collected by measured software, with a nonce over the claims (package
// appraise/nvgpu). The formats are NVIDIA's, as its attestation SDK reads them.
package nvgpu

import (
	"crypto/x509"
	"time"

	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/nvgpu/spdm"
	"cocoon/verifier/result"
)

// Limits of what Verify takes.
const (
	MaxDevices = 16  // GPUs and switches of one machine
	MaxRIMs    = 64  // RIM documents
	MaxOCSP    = 256 // OCSP responses
)

// Item is the evidence of one device. What device it is follows from its
// certificates, whatever else is claimed.
type Item struct {
	Report []byte   // SPDM request and response
	Chain  [][]byte // five certificates in DER, leaf first
	Arch   Arch     // what the sender claims; empty: nothing
}

// Options of a verification. One Options value may serve any number of
// concurrent verifications; it is never written to.
type Options struct {
	// Roots are the pinned device roots; nil: NVIDIA's.
	Roots *Roots
	// RIMRoots are the pinned roots of RIM signers; nil: NVIDIA's.
	RIMRoots *rim.Roots
	// Now is the time of verification; zero: Clock's, or the present.
	Now time.Time
	// Clock gives the time where Now is zero; nil: time.Now.
	Clock func() time.Time
	// Nonce is what every report must answer.
	Nonce [spdm.NonceSize]byte
	// AnyNonce takes reports that answer whatever nonce, which is reported as
	// skipped. For recorded evidence whose nonce nobody wrote down.
	AnyNonce bool
	// GPUs is how many GPUs the machine must have; 0: not checked.
	GPUs int
	// Partial says that the devices are not a whole machine: the topology is
	// not checked. For looking at single devices.
	Partial bool
	// RIMs are candidate documents, in any order. Each device takes those for
	// its own versions; of several the one with the newest signer.
	RIMs [][]byte
	// NoRIM skips the measurements of devices for which RIMs has nothing,
	// instead of refusing them.
	NoRIM bool
	// AllowExpiredRIM takes RIMs whose signer's certificates have expired.
	AllowExpiredRIM bool
	// OCSP are responses for the certificates of devices and RIMs. A certificate
	// without one is reported as skipped. Only the first eight about one
	// certificate are looked at: those of the more trusted origin come first.
	OCSP [][]byte
	// OCSPNonce must be in every OCSP response; nil: not demanded, as with
	// responses that were not fetched for this verification.
	OCSPNonce []byte
	// OCSPMaxAge bounds the age of responses; 0: only their own validity.
	OCSPMaxAge time.Duration
	// AllowHold takes certificates that are revoked with reason
	// certificateHold.
	AllowHold bool
	// Cache keeps verified chains and RIMs; nil: nothing is kept.
	Cache *Cache
}

func (o *Options) now() time.Time {
	switch {
	case !o.Now.IsZero():
		return o.Now
	case o.Clock != nil:
		return o.Clock()
	}
	return time.Now()
}

// Mode is the confidential-computing mode of a GPU.
type Mode string

// Modes.
const (
	SPT   Mode = "spt"   // single GPU passthrough
	MPT   Mode = "mpt"   // multi GPU passthrough, NVLink encrypted (Blackwell)
	PPCIE Mode = "ppcie" // protected PCIe: 8 GPUs and 4 switches in one VM (Hopper)
)

// Device is what was found of one device.
type Device struct {
	Kind   Kind           `json:"kind"` // of the certificates; empty where there is no good chain
	Arch   Arch           `json:"arch"`
	Chip   string         `json:"chip"`           // "GH100"
	Model  string         `json:"model"`          // "H100"; empty where the board is not known
	Board  string         `json:"board"`          // "G520/0200/885": project, project SKU, chip SKU
	Driver string         `json:"driver"`         // empty for a switch
	VBIOS  string         `json:"vbios"`          // of a switch its BIOS
	UEID   string         `json:"ueid"`           // serial number of the leaf certificate, decimal
	PDI    string         `json:"pdi"`            // lower-case hex
	Mode   Mode           `json:"mode"`           // empty for a switch
	RIMs   []string       `json:"rims,omitempty"` // SHA-256 of the documents used
	Checks []result.Check `json:"checks"`

	// NotAfter is the end of what the checks rest on: certificates, RIMs, OCSP.
	NotAfter time.Time `json:"not_after,omitzero"`

	report *spdm.Report
	chain  *deviceChain
	gpu    *spdm.GPU
	sw     *spdm.Switch
	key    *ecsig.Known
}

// Topology is what was found of the machine as a whole.
type Topology struct {
	Mode     Mode           `json:"mode"` // of all GPUs; empty where they differ or there is none
	GPUs     []string       `json:"gpus"` // PDIs of the certificates
	Switches []string       `json:"switches"`
	Checks   []result.Check `json:"checks"`
}

// Machine is what was found of all devices.
type Machine struct {
	Devices  []*Device `json:"devices"` // in the order of the items
	Topology Topology  `json:"topology"`
	NotAfter time.Time `json:"not_after,omitzero"`
}

// Checks returns every check: the machine's, then each device's.
func (m *Machine) Checks() []result.Check {
	all := append([]result.Check(nil), m.Topology.Checks...)
	for _, d := range m.Devices {
		all = append(all, d.Checks...)
	}
	return all
}

// Failed returns the checks that failed. Without any, the evidence is genuine;
// whether what was skipped matters, a policy says.
func (m *Machine) Failed() []result.Check {
	var bad []result.Check
	for _, c := range m.Checks() {
		if c.Status == result.Fail {
			bad = append(bad, c)
		}
	}
	return bad
}

// Check returns the check with an ID; its Status is empty where there is none.
func (d *Device) Check(id string) result.Check {
	for _, c := range d.Checks {
		if c.ID == id {
			return c
		}
	}
	return result.Check{}
}

// Issuers returns the verified certificates whose revocation status matters,
// from the boot ROM's to the root, each issued by the next; nil where the
// chain is not good.
func (d *Device) Issuers() []*x509.Certificate {
	if d.chain == nil {
		return nil
	}
	return append([]*x509.Certificate(nil), d.chain.certs[certBROM:]...)
}

func (d *Device) pass(id, actual string) {
	d.Checks = append(d.Checks, result.Check{ID: id, Status: result.Pass, Actual: actual})
}

func (d *Device) skip(id, reason string) {
	d.Checks = append(d.Checks, result.Check{ID: id, Status: result.Skip, Reason: reason})
}

func (d *Device) fail(id, expected, actual, reason, remedy string) {
	d.Checks = append(d.Checks, result.Check{ID: id, Status: result.Fail, Expected: expected, Actual: actual, Reason: reason, Remedy: remedy})
}

func (d *Device) until(t time.Time) {
	if d.NotAfter.IsZero() || t.Before(d.NotAfter) {
		d.NotAfter = t
	}
}
