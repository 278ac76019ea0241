package rimtest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Measurement is one reference value of a RIM to be made.
type Measurement struct {
	Index        int
	Active       bool
	Alternatives [][48]byte
}

// RIM says what a document states.
type RIM struct {
	Product  string // empty: GH100
	Edition  string // empty: GPU
	Version  string
	TagID    string // empty: made from the version
	Values   []Measurement
	From, To time.Time  // of the signer; zero: around Now
	Signer   *Authority // nil: one made for this document
	// Content edits the document before it is signed, Signed after.
	Content func(string) string
	Signed  func(string) string
}

// One returns measurements 0 to n-1, the named ones active, all with one
// alternative that depends on index and seed.
func One(n int, seed string, active ...int) []Measurement {
	out := make([]Measurement, n)
	for i := range out {
		out[i] = Measurement{Index: i, Active: slices.Contains(active, i),
			Alternatives: [][48]byte{sha512.Sum384(fmt.Appendf(nil, "%s %d", seed, i))}}
	}
	return out
}

// namespaces in scope of the document element, in canonical order; the
// signature's own stands between them where it is in scope.
const (
	nsDefault = ` xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"`
	nsDS      = ` xmlns:ds="http://www.w3.org/2000/09/xmldsig#"`
	nsOthers  = ` xmlns:ns0="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384"`
)

// Mint returns a signed document. It writes canonical XML 1.1 by hand, so
// that what it signs does not come out of the canonicalizer under test.
func (p *PKI) Mint(r RIM) ([]byte, error) {
	signer := r.Signer
	if signer == nil {
		var err error
		if signer, err = Issue(p.L3, Profile{Name: "Test RIM L4 Signer", From: r.From, To: r.To}); err != nil {
			return nil, err
		}
	}
	content := r.content()
	if r.Content != nil {
		content = r.Content(content)
	}
	digest := sha512.Sum384([]byte(content))
	info := signedInfo(digest)
	sum := sha512.Sum384([]byte(strings.Replace(info, "<ds:SignedInfo>", "<ds:SignedInfo"+nsDefault+nsDS+nsOthers+">", 1)))
	a, b, err := ecdsa.Sign(rand.Reader, signer.Key, sum[:])
	if err != nil {
		return nil, fmt.Errorf("signing RIM: %w", err)
	}
	raw := make([]byte, 96)
	a.FillBytes(raw[:48])
	b.FillBytes(raw[48:])
	var sig strings.Builder
	sig.WriteString("<ds:Signature" + nsDS + ">" + info + "<ds:SignatureValue>" + base64.StdEncoding.EncodeToString(raw) + "</ds:SignatureValue><ds:KeyInfo><ds:X509Data>")
	for _, c := range p.Chain(signer) {
		sig.WriteString("<ds:X509Certificate>" + lines(c) + "</ds:X509Certificate>")
	}
	sig.WriteString("</ds:X509Data></ds:KeyInfo></ds:Signature>")
	const end = "</SoftwareIdentity>"
	out := strings.TrimSuffix(content, end) + sig.String() + end
	if r.Signed != nil {
		out = r.Signed(out)
	}
	return []byte(out), nil
}

// lines is a certificate's base64 with line ends, as NVIDIA's documents have.
func lines(c *x509.Certificate) string {
	s := base64.StdEncoding.EncodeToString(c.Raw)
	var b strings.Builder
	for len(s) > 64 {
		b.WriteString(s[:64] + "\n")
		s = s[64:]
	}
	return b.String() + s + "\n"
}

func signedInfo(digest [48]byte) string {
	alg := func(tag, uri string) string { return "<ds:" + tag + ` Algorithm="` + uri + `"></ds:` + tag + ">" }
	return "<ds:SignedInfo>" + alg("CanonicalizationMethod", "http://www.w3.org/2006/12/xml-c14n11") +
		alg("SignatureMethod", "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384") +
		`<ds:Reference URI=""><ds:Transforms>` + alg("Transform", "http://www.w3.org/2000/09/xmldsig#enveloped-signature") +
		alg("Transform", "http://www.w3.org/2006/12/xml-c14n11") + "</ds:Transforms>" +
		alg("DigestMethod", "http://www.w3.org/2001/04/xmldsig-more#sha384") +
		"<ds:DigestValue>" + base64.StdEncoding.EncodeToString(digest[:]) + "</ds:DigestValue></ds:Reference></ds:SignedInfo>"
}

// content is the document without its signature, in canonical form.
func (r *RIM) content() string {
	product, edition, tag := r.Product, r.Edition, r.TagID
	if product == "" {
		product = "GH100"
	}
	if edition == "" {
		edition = "GPU"
	}
	if tag == "" {
		sum := sha512.Sum384([]byte(r.Version))
		tag = hex.EncodeToString(sum[:])
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<SoftwareIdentity%s%s corpus="false" name="%s" patch="false" supplemental="false" tagId="%s" tagVersion="0" version="1.0">`+"\n", nsDefault, nsOthers, product, tag)
	b.WriteString(`<ns0:Entity name="Test Corporation" role="softwareCreator tagCreator"></ns0:Entity>` + "\n")
	fmt.Fprintf(&b, `<ns0:Meta xmlns:ns1="https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/" PayloadType="direct" colloquialVersion="%s" edition="%s" product="%s" revision="r1" ns1:BindingSpec="RIMIM" ns1:FirmwareManufacturerId="5703"></ns0:Meta>`+"\n", r.Version, edition, product)
	b.WriteString("<ns0:Payload>")
	for _, m := range r.Values {
		active := "False"
		if m.Active {
			active = "True"
		}
		var hashes []string
		for i, h := range m.Alternatives {
			hashes = append(hashes, fmt.Sprintf(` ns2:Hash%d="%x"`, i, h))
		}
		// Canonical order is that of the names' text: Hash10 before Hash2.
		slices.SortFunc(hashes, func(a, b string) int {
			x, _, _ := strings.Cut(a, "=")
			y, _, _ := strings.Cut(b, "=")
			return strings.Compare(x, y)
		})
		fmt.Fprintf(&b, "\n"+`<ns0:Resource active="%s" alternatives="%d" index="%d" name="Measurement_%d" size="48" type="Measurement"%s></ns0:Resource>`,
			active, len(m.Alternatives), m.Index, m.Index, strings.Join(hashes, ""))
	}
	b.WriteString("\n</ns0:Payload>\n</SoftwareIdentity>")
	return b.String()
}
