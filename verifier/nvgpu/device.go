package nvgpu

import (
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/nvgpu/spdm"
)

// run is one verification.
type run struct {
	o     *Options
	now   time.Time
	roots *Roots
	cache *Cache
	rims  *rimSet
	ocsp  *ocspSet
}

// oneLine is an error's text on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

const remedyCollect = "collect the evidence again, from the device itself"

// device verifies one device. Every check that can be made is made.
func (r *run) device(it *Item) *Device {
	d := &Device{}
	var err error
	if d.report, err = spdm.Parse(it.Report); err != nil {
		d.fail("gpu.parse", "an SPDM attestation report", oneLine(err), "the report does not parse", remedyCollect)
	}
	r.chain(d, it)
	if d.report == nil {
		return d
	}
	r.signature(d)
	r.nonce(d)
	if d.chain == nil {
		return d // nobody says what device this is, or vouches for it
	}
	if !d.decode() {
		return d
	}
	d.arch(it.Arch)
	d.firmwareID()
	if d.gpu != nil {
		d.mode()
	}
	r.revocation(d)
	r.measurements(d)
	return d
}

// chain verifies the certificates and says what device it is.
func (r *run) chain(d *Device, it *Item) {
	const id = "gpu.chain"
	c, err := verifyChain(it.Chain, r.roots, r.cache)
	if err != nil {
		expected := "a chain under NVIDIA's device root"
		if !r.roots.nvidia {
			expected = "a chain under the pinned root"
		}
		d.fail(id, expected, oneLine(err), "the certificate chain does not verify", "give the device's attestation certificate chain, five certificates, leaf first")
		return
	}
	d.chain, d.key = c, c.key
	d.Kind, d.Arch, d.Chip, d.PDI = c.kind, c.arch, c.chip, c.pdi.String()
	d.UEID = c.certs[certLeaf].SerialNumber.String()
	window := fmt.Sprintf("%s to %s", stamp(c.notBefore), stamp(c.notAfter))
	if r.now.Before(c.notBefore) || r.now.After(c.notAfter) {
		d.fail(id, window, stamp(r.now), "a certificate of the chain is not valid at this time", "check the clock")
		return
	}
	d.until(c.notAfter)
	d.pass(id, c.certs[certLeaf].Subject.CommonName)
}

// signature verifies the report's signature with the leaf's key.
func (r *run) signature(d *Device) {
	const id = "gpu.signature"
	if d.key == nil {
		d.skip(id, "there is no key to verify it with: the chain does not hold")
		return
	}
	sum := sha512.Sum384(d.report.Signed)
	if x, y := ecsig.Halves(d.report.Signature); !r.cache.keys.Verify(d.key, sum[:], x, y) {
		d.fail(id, "a signature by "+d.chain.certs[certLeaf].Subject.CommonName+" "+d.UEID, "another", "the report's signature does not verify under the leaf certificate", remedyCollect)
		return
	}
	d.pass(id, "")
}

// nonce checks that the report answers this challenge. The responder's own
// nonce is not compared with anything.
func (r *run) nonce(d *Device) {
	const id = "gpu.nonce"
	want, got := hex.EncodeToString(r.o.Nonce[:]), hex.EncodeToString(d.report.RequestNonce[:])
	if r.o.AnyNonce {
		d.skip(id, "no nonce was given to hold the report's against: "+got)
		return
	}
	if subtle.ConstantTimeCompare(r.o.Nonce[:], d.report.RequestNonce[:]) != 1 {
		d.fail(id, want, got, "the report answers another nonce", "ask for a report over your own nonce")
		return
	}
	d.pass(id, got)
}

// decode reads the opaque data as that of the device that the certificates
// name.
func (d *Device) decode() bool {
	var err error
	if d.Kind == KindSwitch {
		if d.sw, err = d.report.Opaque.Switch(); err == nil {
			d.VBIOS = d.sw.BIOS
		}
	} else if d.gpu, err = d.report.Opaque.GPU(); err == nil {
		d.Driver, d.VBIOS = d.gpu.Driver, d.gpu.VBIOS
		d.Board = strings.ToUpper(strings.Join([]string{d.gpu.Project, d.gpu.ProjectSKU, d.gpu.ChipSKU}, "/"))
		d.Model = models[d.Board]
	}
	if err != nil {
		d.fail("gpu.parse", "opaque data of a "+string(d.Kind), oneLine(err), "the report's opaque data does not parse", remedyCollect)
		return false
	}
	d.pass("gpu.parse", fmt.Sprintf("%d measurements", len(d.report.Measurements)))
	return true
}

// models are the products of boards that are known: project, project SKU,
// chip SKU. NVIDIA publishes no list.
var models = map[string]string{
	"1010/0200/882": "H100", "G520/0200/885": "H100", "G520/0280/895": "H200", "G525/0220/886": "B200",
}

// arch holds what is claimed, and what the report says of itself, against the
// certificates.
func (d *Device) arch(claimed Arch) {
	const id = "gpu.arch"
	actual := fmt.Sprintf("%s (%s)", d.Arch, d.Chip)
	switch {
	case claimed != "" && claimed != d.Arch:
		d.fail(id, string(claimed), actual, "the certificates are of another architecture than claimed", "name the device's own architecture")
	case d.gpu != nil && d.gpu.ChipInfo != "" && !strings.EqualFold(d.gpu.ChipInfo, d.Chip):
		d.fail(id, d.Chip, d.gpu.ChipInfo, "the report is of another chip than the certificates", remedyCollect)
	case d.sw != nil && d.sw.PDI != d.chain.pdi:
		d.fail(id, d.PDI, d.sw.PDI.String(), "the report names another switch than the certificates", remedyCollect)
	default:
		d.pass(id, actual)
	}
}

// firmwareID checks that the firmware in the report is the one that the key
// was made for. Old drivers and switches do not report it.
func (d *Device) firmwareID() {
	const id = "gpu.fwid"
	var reported []byte
	if d.gpu != nil {
		reported = d.gpu.FWID
	} else if v, ok := d.report.Opaque.Get(spdm.TagFWID); ok {
		reported = v
	}
	switch {
	case reported == nil:
		d.skip(id, "the report has no firmware ID")
	case d.chain.fwidErr != nil:
		d.fail(id, "a firmware ID in the leaf certificate", "none", d.chain.fwidErr.Error(), remedyCollect)
	case subtle.ConstantTimeCompare(reported, d.chain.fwid) != 1:
		d.fail(id, hex.EncodeToString(d.chain.fwid), hex.EncodeToString(reported), "the firmware in the report is not the one that the key was made for", remedyCollect)
	default:
		d.pass(id, hex.EncodeToString(reported))
	}
}

// mode reads the confidential-computing mode. What names none of the modes
// that are known is refused.
func (d *Device) mode() {
	const id = "gpu.mode"
	m, err := modeOf(d.gpu, d.Arch)
	if err != nil {
		d.fail(id, "spt, mpt or ppcie", oneLine(err), "the GPU names no mode that is known", "use a driver and a mode that this version knows")
		return
	}
	d.Mode = m
	d.pass(id, string(m))
}

func modeOf(g *spdm.GPU, a Arch) (Mode, error) {
	protected := g.ProtectedPCIe != nil && *g.ProtectedPCIe
	m := SPT
	switch {
	case g.Feature == nil && protected:
		m = PPCIE
	case g.Feature == nil:
	case *g.Feature == spdm.FeatureSPT:
	case *g.Feature == spdm.FeatureMPT:
		m = MPT
	case *g.Feature == spdm.FeaturePPCIE:
		m = PPCIE
	default:
		return "", fmt.Errorf("feature flag %d is unknown", *g.Feature)
	}
	switch {
	case g.ProtectedPCIe != nil && protected != (m == PPCIE):
		return "", errors.New("feature flag and protected PCIe status contradict each other")
	case m == MPT && a != Blackwell, m == PPCIE && a != Hopper:
		return "", fmt.Errorf("there is no mode %s on %s", m, a)
	}
	return m, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
