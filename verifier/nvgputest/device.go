package nvgputest

import (
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/spdm"
)

// Device describes a GPU or switch and the report that it makes. Tests change
// fields before they call Make.
type Device struct {
	Name         string // fixes the keys
	Chip         string // of the certificates: "GH100", "GB100", "LS_10"
	PDI          spdm.PDI
	Driver       string    // GPU
	VBIOS        string    // dotted
	Project      [3]string // GPU: project, project SKU, chip SKU
	ChipInfo     string    // GPU; empty: left out
	NVDEC0       byte      // GPU; 0: left out
	Protected    byte      // GPU: protected PCIe status; 0: left out
	Feature      int       // GPU: feature flag; negative: left out, with the version
	NoFWID       bool
	Firmware     string         // what the firmware ID is a hash of, in certificate and report
	Reported     string         // in the report instead; empty: Firmware
	Switches     []spdm.PDI     // GPU: at the ends of its links
	GPUs         []spdm.PDI     // switch: of its GPUs
	Measurements int            // number of blocks
	Changed      map[int]string // measurements, 0-based, that are of something else
	Issuer       string         // chip of the provisioner; empty: Chip
	Identity     string         // product of the identity's certificate; empty: that of Chip
	Extensions   []string       // chips in whose form the leaf has its firmware ID; nil: Chip
	NotBefore    time.Time      // of the leaf; zero: Now less three years
	NotAfter     time.Time      // of the leaf; zero: Now and thirty years
}

// GPU returns a Hopper GPU in single GPU passthrough.
func GPU(n int) Device {
	return Device{Name: fmt.Sprint("gpu ", n), Chip: "GH100", PDI: pdi("gpu", n), Driver: "550.90.07", VBIOS: "96.00.9F.00.01",
		Project: [3]string{"1010", "0200", "882"}, NVDEC0: 0x55, Protected: 0x55, Feature: -1, Firmware: "fmc", Measurements: 64}
}

// BlackwellGPU returns a Blackwell GPU in multi GPU passthrough.
func BlackwellGPU(n int) Device {
	return Device{Name: fmt.Sprint("blackwell gpu ", n), Chip: "GB100", PDI: pdi("blackwell gpu", n), Driver: "590.48.01", VBIOS: "97.00.D9.00.35",
		Project: [3]string{"G525", "0220", "886"}, ChipInfo: "GB100", NVDEC0: 0xAA, Feature: spdm.FeatureMPT, Firmware: "fmc", Measurements: 64}
}

// Switch returns an LS10 switch.
func Switch(n int) Device {
	return Device{Name: fmt.Sprint("switch ", n), Chip: "LS_10", PDI: pdi("switch", n), VBIOS: "96.10.73.00.01", Firmware: "fmc", Measurements: 31}
}

// Board returns the 8 GPUs and 4 switches of one board in protected PCIe.
func Board() []Device {
	var gpus, switches []Device
	var gpuPDIs, switchPDIs []spdm.PDI
	for i := range 8 {
		d := GPU(i)
		d.Protected, d.Feature = 0xAA, spdm.FeaturePPCIE
		gpus, gpuPDIs = append(gpus, d), append(gpuPDIs, d.PDI)
	}
	for i := range 4 {
		d := Switch(i)
		switches, switchPDIs = append(switches, d), append(switchPDIs, d.PDI)
	}
	for i := range gpus {
		gpus[i].Switches = slices.Clone(switchPDIs)
	}
	for i := range switches {
		switches[i].GPUs = slices.Clone(gpuPDIs)
	}
	return append(gpus, switches...)
}

func pdi(kind string, n int) spdm.PDI {
	h := sha512.Sum384(fmt.Appendf(nil, "pdi %s %d", kind, n))
	return spdm.PDI(h[:])
}

// Measurement returns what a device of this package measures at a 0-based
// index, unless it is changed.
func Measurement(index int) [48]byte { return sha512.Sum384(fmt.Appendf(nil, "measurement %d", index)) }

// Make makes the evidence of a device for a nonce.
func (p *PKI) Make(d *Device, nonce [32]byte) (nvgpu.Item, error) {
	chain, err := p.chain(d)
	if err != nil {
		return nvgpu.Item{}, err
	}
	signed := append(request(nonce), d.response()...)
	sig, err := signRaw(chain[0].key, signed)
	if err != nil {
		return nvgpu.Item{}, err
	}
	it := nvgpu.Item{Report: append(signed, sig...)}
	for _, a := range chain {
		it.Chain = append(it.Chain, a.cert.Raw)
	}
	return it, nil
}

// Items makes the evidence of several devices for one nonce.
func (p *PKI) Items(ds []Device, nonce [32]byte) ([]nvgpu.Item, error) {
	out := make([]nvgpu.Item, len(ds))
	for i := range ds {
		var err error
		if out[i], err = p.Make(&ds[i], nonce); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// chain makes the five certificates, leaf first.
func (p *PKI) chain(d *Device) ([]*authority, error) {
	family, prefix, unit := "GH100", byte(0x41), "GSP"
	switch {
	case d.Chip == "LS_10":
		prefix, unit = 0x50, "FSP"
	case strings.HasPrefix(d.Chip, "GB"):
		family = "GB100"
	}
	if d.Identity != "" {
		family = d.Identity
	}
	issuer := d.Issuer
	if issuer == "" {
		issuer = d.Chip
	}
	identity, err := p.authority("NVIDIA "+family+" Identity", p.root)
	if err != nil {
		return nil, err
	}
	ica, err := p.authority("NVIDIA "+issuer+" Provisioner ICA 1", identity)
	if err != nil {
		return nil, err
	}
	number := append([]byte{prefix}, d.PDI[:]...)
	name := subject(d.Chip + " A01 " + unit + " BROM")
	name.SerialNumber = strings.ToUpper(hex.EncodeToString(number))
	brom, err := p.issue("brom "+d.Name, &x509.Certificate{SerialNumber: new(big.Int).SetBytes(number), Subject: name, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: Now.AddDate(-3, 0, 0), NotAfter: Now.AddDate(30, 0, 0)}, ica)
	if err != nil {
		return nil, err
	}
	forms := d.Extensions
	if forms == nil {
		forms = []string{d.Chip}
	}
	var exts []pkix.Extension
	for _, chip := range forms {
		ext, err := fwidExtension(chip, sha512.Sum384([]byte(d.Firmware)))
		if err != nil {
			return nil, err
		}
		exts = append(exts, ext)
	}
	from := d.NotBefore
	if from.IsZero() {
		from = Now.AddDate(-3, 0, 0)
	}
	to := d.NotAfter
	if to.IsZero() {
		to = Now.AddDate(30, 0, 0)
	}
	leaf, err := p.issue("leaf "+d.Name, &x509.Certificate{SerialNumber: serial("leaf " + d.Name), Subject: subject(d.Chip + " A01 " + unit + " FMC LF"),
		KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: from, NotAfter: to, ExtraExtensions: exts}, brom)
	if err != nil {
		return nil, err
	}
	return []*authority{leaf, brom, ica, identity, p.root}, nil
}

// fwidExtension returns the DICE extension of a chip: DiceTcbInfo on
// Blackwell, CompositeDeviceID before it.
func fwidExtension(chip string, id [48]byte) (pkix.Extension, error) {
	type fwid struct {
		Algorithm asn1.ObjectIdentifier
		Digest    []byte
	}
	f := fwid{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, id[:]}
	if strings.HasPrefix(chip, "GB") {
		der, err := asn1.Marshal(struct {
			FWIDs []fwid `asn1:"tag:6"`
		}{[]fwid{f, {f.Algorithm, make([]byte, 48)}}})
		return pkix.Extension{Id: asn1.ObjectIdentifier{2, 23, 133, 5, 4, 1, 1}, Value: der}, err
	}
	der, err := asn1.Marshal(struct {
		Version  int
		DeviceID []int
		FWID     fwid
	}{1, []int{1}, f})
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 23, 133, 5, 4, 1}, Value: der}, err
}

func request(nonce [32]byte) []byte {
	return append(append([]byte{0x11, 0xE0, 0x01, 0xFF}, nonce[:]...), 0)
}

func (d *Device) response() []byte {
	var record []byte
	for i := range d.Measurements {
		v := Measurement(i)
		if what, ok := d.Changed[i]; ok {
			v = sha512.Sum384([]byte(what))
		}
		record = append(append(record, byte(i+1), 1, 51, 0, 1, 48, 0), v[:]...)
	}
	opaque := d.opaque()
	out := []byte{0x11, 0x60, 0, 0, byte(d.Measurements), byte(len(record)), byte(len(record) >> 8), byte(len(record) >> 16)}
	out = append(append(out, record...), make([]byte, 32)...)
	return append(binary.LittleEndian.AppendUint16(out, uint16(len(opaque))), opaque...)
}

func (d *Device) opaque() (out []byte) {
	add := func(tag uint16, v []byte) {
		out = binary.LittleEndian.AppendUint16(out, tag)
		out = append(binary.LittleEndian.AppendUint16(out, uint16(len(v))), v...)
	}
	text := func(s string, n int) []byte { return append([]byte(s), make([]byte, max(1, n-len(s)))...) }
	if d.Chip == "LS_10" {
		add(spdm.TagVBIOSVersion, []byte(d.VBIOS))
		add(spdm.TagSwitchPDI, d.PDI[:])
		if d.GPUs != nil {
			list := slices.Repeat([]byte{0xFF}, 128)
			for i, g := range d.GPUs {
				copy(list[i*8:], g[:])
			}
			add(spdm.TagSwitchGPUPDIs, list)
		}
		return out
	}
	v, _ := hex.DecodeString(strings.ReplaceAll(d.VBIOS, ".", ""))
	add(spdm.TagVBIOSVersion, []byte{v[3], v[2], v[1], v[0], v[4], 0, 0, 0})
	add(spdm.TagDriverVersion, text(d.Driver, 0))
	add(spdm.TagProject, text(d.Project[0], 5))
	add(spdm.TagProjectSKU, text(d.Project[1], 5))
	add(spdm.TagChipSKU, text(d.Project[2], 9))
	if d.NVDEC0 != 0 {
		add(spdm.TagNVDEC0, []byte{d.NVDEC0})
	}
	if !d.NoFWID {
		id := sha512.Sum384([]byte(d.Firmware))
		if d.Reported != "" {
			id = sha512.Sum384([]byte(d.Reported))
		}
		add(spdm.TagFWID, id[:])
	}
	if d.Protected != 0 {
		add(spdm.TagProtectedPCIe, []byte{d.Protected})
	}
	if d.Switches != nil {
		list := make([]byte, 144)
		for i := range 18 {
			s := d.Switches[i%len(d.Switches)]
			slices.Reverse(s[:])
			copy(list[i*8:], s[:])
		}
		add(spdm.TagSwitchPDI, list)
	}
	if d.ChipInfo != "" {
		add(spdm.TagChipInfo, text(d.ChipInfo, 0))
	}
	if d.Feature >= 0 {
		add(spdm.TagOpaqueVersion, []byte{1, 0})
		add(spdm.TagFeatureFlag, []byte{byte(d.Feature), 0})
	}
	return out
}

// Bound is a device that makes reports for many nonces.
type Bound struct {
	chain    []*authority
	response []byte
}

// Bind makes a device's certificates and measurements once.
func (p *PKI) Bind(d *Device) (*Bound, error) {
	chain, err := p.chain(d)
	if err != nil {
		return nil, err
	}
	return &Bound{chain, d.response()}, nil
}

// Chain returns the certificates, DER, leaf first.
func (b *Bound) Chain() [][]byte {
	var out [][]byte
	for _, a := range b.chain {
		out = append(out, a.cert.Raw)
	}
	return out
}

// Report makes the report for a nonce.
func (b *Bound) Report(nonce [32]byte) ([]byte, error) {
	signed := append(request(nonce), b.response...)
	sig, err := signRaw(b.chain[0].key, signed)
	if err != nil {
		return nil, err
	}
	return append(signed, sig...), nil
}

// RootPEMs returns the root certificates of devices and of RIMs in PEM.
func (p *PKI) RootPEMs() (devices, rims []byte) { return pemOf(p.root.cert), pemOf(p.rimRoot.cert) }
