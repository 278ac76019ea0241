package nvgputest

import (
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"time"

	"cocoon/verifier/nvgpu/rimtest"
)

// RIM describes a reference integrity manifest.
type RIM struct {
	Product, Edition, Version string
	Count                     int          // of measurements, active or not
	Active                    map[int]int  // index → number of alternatives; the device's is the last
	Wrong                     map[int]bool // indices whose alternatives are all of something else
	NotBefore, NotAfter       time.Time    // of the signer; zero: a year around Now
	OtherRoot                 bool         // under a root that is not the RIM root
}

// Active sets as in NVIDIA's documents.
var (
	vbiosActive  = map[int]int{0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 8: 1, 9: 2, 10: 1, 11: 1, 12: 4}
	driverActive = []int{7, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40}
)

// RIMs returns the manifests for a device: of driver and VBIOS, or of the
// switch's BIOS.
func RIMs(d *Device) []RIM {
	if d.Chip == "LS_10" {
		r := RIM{Product: "LS10", Edition: "SWITCH", Version: d.VBIOS, Count: 31, Active: map[int]int{}}
		for i := range 31 {
			r.Active[i] = 1
		}
		return []RIM{r}
	}
	driver := RIM{Product: d.Chip, Edition: "GPU", Version: d.Driver, Count: 64, Active: map[int]int{}}
	for _, i := range driverActive {
		driver.Active[i] = 1
	}
	vbios := RIM{Product: d.Chip, Edition: "GPU", Version: d.VBIOS, Count: 64, Active: map[int]int{}}
	for i, n := range vbiosActive {
		vbios.Active[i] = n
	}
	return []RIM{driver, vbios}
}

// values returns the measurements as the document names them.
func (r *RIM) values() []rimtest.Measurement {
	out := make([]rimtest.Measurement, r.Count)
	for i := range out {
		n, active := r.Active[i]
		out[i] = rimtest.Measurement{Index: i, Active: active}
		for k := range max(n, 1) {
			h := sha512.Sum384(fmt.Appendf(nil, "alternative %d of %d", k, i))
			if k == n-1 && active && !r.Wrong[i] {
				h = Measurement(i)
			}
			out[i].Alternatives = append(out[i].Alternatives, h)
		}
	}
	return out
}

// Sign makes the document.
func (p *PKI) Sign(r *RIM) ([]byte, error) {
	chain, err := p.rimChain(r)
	if err != nil {
		return nil, err
	}
	pki := &rimtest.PKI{Root: chain[3].shared(), CA: chain[2].shared(), L3: chain[1].shared()}
	return pki.Mint(rimtest.RIM{Product: r.Product, Edition: r.Edition, Version: r.Version, Values: r.values(), Signer: chain[0].shared()})
}

// SignAll makes the documents of RIMs for a device.
func (p *PKI) SignAll(rs []RIM) ([][]byte, error) {
	var out [][]byte
	for i := range rs {
		doc, err := p.Sign(&rs[i])
		if err != nil {
			return nil, err
		}
		out = append(out, doc)
	}
	return out, nil
}

func (p *PKI) rimChain(r *RIM) ([]*authority, error) {
	root := p.rimRoot
	var err error
	if r.OtherRoot {
		if root, err = p.authority("NVIDIA CoRIM signing Root CA that nobody pinned", nil); err != nil {
			return nil, err
		}
	}
	ca, err := p.authority("NVIDIA Reference Value "+r.Product+" CA", root)
	if err != nil {
		return nil, err
	}
	l3, err := p.authority("NVIDIA Reference Value L3 "+r.Product+" 001", ca)
	if err != nil {
		return nil, err
	}
	from, to := r.NotBefore, r.NotAfter
	if from.IsZero() {
		from = Now.AddDate(-1, 0, 0)
	}
	if to.IsZero() {
		to = Now.AddDate(1, 0, 0)
	}
	id := fmt.Sprintf("rim signer %s %d %d", r.Product, from.Unix(), to.Unix())
	leaf, err := p.issue(id, &x509.Certificate{SerialNumber: serial(id), Subject: subject("HCC RIM L4 Signer"), KeyUsage: x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, NotBefore: from, NotAfter: to}, l3)
	if err != nil {
		return nil, err
	}
	return []*authority{leaf, l3, ca, root}, nil
}

// Signers returns the certificates of a RIM's chain, leaf first, without the
// root.
func (p *PKI) Signers(r *RIM) ([]*x509.Certificate, error) {
	chain, err := p.rimChain(r)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for _, a := range chain[:len(chain)-1] {
		out = append(out, a.cert)
	}
	return out, nil
}
