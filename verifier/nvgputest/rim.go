package nvgputest

import (
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"
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

const (
	nsSWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
	nsHash = "http://www.w3.org/2001/04/xmlenc#sha384"
	nsTCG  = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
)

func (r *RIM) body() string {
	tag := sha512.Sum384([]byte(r.Product + r.Version))
	var b strings.Builder
	fmt.Fprintf(&b, `<SoftwareIdentity xmlns="%s" xmlns:ns2="%s" name="%s" tagId="%x" tagVersion="0" version="1.0">`, nsSWID, nsHash, r.Product, tag)
	fmt.Fprintf(&b, `<Meta xmlns:ns1="%s" colloquialVersion="%s" edition="%s" product="%s" ns1:FirmwareManufacturerId="5703"></Meta><Payload>`, nsTCG, r.Version, r.Edition, r.Product)
	for i := range r.Count {
		n, active := r.Active[i]
		n = max(n, 1)
		state := "False"
		if active {
			state = "True"
		}
		fmt.Fprintf(&b, `<Resource active="%s" alternatives="%d" index="%d" name="Measurement_%d" size="48" type="Measurement"`, state, n, i, i)
		for k := range n {
			h := sha512.Sum384(fmt.Appendf(nil, "alternative %d of %d", k, i))
			if k == n-1 && active && !r.Wrong[i] {
				h = Measurement(i)
			}
			fmt.Fprintf(&b, ` ns2:Hash%d="%s"`, k, hex.EncodeToString(h[:]))
		}
		b.WriteString(`></Resource>`)
	}
	b.WriteString(`</Payload>`)
	return b.String()
}

const rimTail = `</SoftwareIdentity>`

// Sign makes the document.
func (p *PKI) Sign(r *RIM) ([]byte, error) {
	chain, err := p.rimChain(r)
	if err != nil {
		return nil, err
	}
	body := r.body()
	canon, err := canonical(body + rimTail)
	if err != nil {
		return nil, err
	}
	digest := sha512.Sum384(canon)
	const ns = "http://www.w3.org/2000/09/xmldsig#"
	info := `<ds:CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"></ds:CanonicalizationMethod>` +
		`<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"></ds:SignatureMethod><ds:Reference URI=""><ds:Transforms>` +
		`<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"></ds:Transform>` +
		`<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"></ds:Transform></ds:Transforms>` +
		`<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"></ds:DigestMethod><ds:DigestValue>` +
		base64.StdEncoding.EncodeToString(digest[:]) + `</ds:DigestValue></ds:Reference></ds:SignedInfo>`
	// Signed information is canonical in the namespaces of its place.
	inPlace, err := canonical(fmt.Sprintf(`<ds:SignedInfo xmlns="%s" xmlns:ds="%s" xmlns:ns2="%s">`, nsSWID, ns, nsHash) + info)
	if err != nil {
		return nil, err
	}
	sig, err := signRaw(chain[0].key, inPlace)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString(body)
	fmt.Fprintf(&b, `<ds:Signature xmlns:ds="%s"><ds:SignedInfo>%s<ds:SignatureValue>%s</ds:SignatureValue><ds:KeyInfo><ds:X509Data>`, ns, info, base64.StdEncoding.EncodeToString(sig))
	for _, a := range chain {
		fmt.Fprintf(&b, `<ds:X509Certificate>%s</ds:X509Certificate>`, base64.StdEncoding.EncodeToString(a.cert.Raw))
	}
	b.WriteString(`</ds:X509Data></ds:KeyInfo></ds:Signature>` + rimTail)
	return []byte(b.String()), nil
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

func canonical(doc string) ([]byte, error) {
	tree := etree.NewDocument()
	if err := tree.ReadFromString(doc); err != nil {
		return nil, fmt.Errorf("reading XML: %w", err)
	}
	return dsig.MakeC14N11Canonicalizer().Canonicalize(tree.Root())
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
