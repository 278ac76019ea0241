package rim_test

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/nvgpu/rimtest"
)

func newPKI(t testing.TB) (*rimtest.PKI, *rim.Options) {
	t.Helper()
	p, err := rimtest.NewPKI()
	if err != nil {
		t.Fatal(err)
	}
	roots, err := rim.ParseRoots(p.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	return p, &rim.Options{Roots: roots, Now: rimtest.Now}
}

func good() rimtest.RIM {
	r := rimtest.RIM{Version: "550.90.07", Values: rimtest.One(64, "x", 7, 21, 35)}
	for range 12 { // Hash10 sorts before Hash2
		r.Values[35].Alternatives = append(r.Values[35].Alternatives, r.Values[0].Alternatives[0])
	}
	return r
}

func TestMintedDocumentVerifies(t *testing.T) {
	p, o := newPKI(t)
	raw, err := p.Mint(good())
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := rim.Verify(raw, o)
	if err != nil {
		t.Fatal(err)
	}
	if m := d.Measurements[35]; !m.Active || len(m.Alternatives) != 13 || m.Alternatives[10] != rim.Hash(good().Values[0].Alternatives[0]) {
		t.Errorf("measurement 35 is %+v", m)
	}
	if !d.SignerNotBefore().Equal(rimtest.Now.AddDate(-1, 0, 0)) || d.Signer != "Test RIM L4 Signer" || len(d.Measurements) != 64 {
		t.Errorf("document %+v", d)
	}
	if _, _, err := rim.Verify(raw, &rim.Options{Now: rimtest.Now}); !fault.Has(err, rim.CheckChain) {
		t.Errorf("under NVIDIA's root: %v", err)
	}
	reissued, err := rimtest.Issue(p.Root, rimtest.Profile{Name: "Other Root", CA: true})
	if err != nil {
		t.Fatal(err)
	}
	p.Root = reissued
	if raw, err = p.Mint(good()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := rim.Verify(raw, o); !fault.Has(err, rim.CheckChain) {
		t.Errorf("with another root at the end: %v", err)
	}
}

func TestDocumentsOutsideTheProfileAreRefused(t *testing.T) {
	p, o := newPKI(t)
	edit := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				t.Fatalf("the document has no %q", old)
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	ca, err := rimtest.Issue(p.L3, rimtest.Profile{Name: "CA as signer", CA: true})
	if err != nil {
		t.Fatal(err)
	}
	responder, err := rimtest.Responder(p.L3)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := rimtest.Issue(ca, rimtest.Profile{Name: "not of the L3"})
	if err != nil {
		t.Fatal(err)
	}
	odd, err := rimtest.Issue(p.L3, rimtest.Profile{Name: "no digital signature", Change: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }})
	if err != nil {
		t.Fatal(err)
	}
	type change = func(*rimtest.RIM)
	content := func(old, new string) change { return func(r *rimtest.RIM) { r.Content = edit(old, new) } }
	signed := func(old, new string) change { return func(r *rimtest.RIM) { r.Signed = edit(old, new) } }
	for name, c := range map[string]struct {
		change change
		want   string
	}{
		"a document type":               {signed("<SoftwareIdentity", "<!DOCTYPE x><SoftwareIdentity"), rim.CheckParse},
		"an entity":                     {signed("<SoftwareIdentity", `<!DOCTYPE x [<!ENTITY a "b">]><SoftwareIdentity`), rim.CheckParse},
		"a comment":                     {signed("<ns0:Meta", "<!-- x --><ns0:Meta"), rim.CheckParse},
		"a comment after it":            {signed("</SoftwareIdentity>", "</SoftwareIdentity><!-- x -->"), rim.CheckParse},
		"a processing instruction":      {signed("<ns0:Meta", "<?x y?><ns0:Meta"), rim.CheckParse},
		"a CDATA section":               {signed("<ds:DigestValue>", "<ds:DigestValue><![CDATA[]]>"), rim.CheckParse},
		"another declared encoding":     {signed("<SoftwareIdentity", `<?xml version="1.0" encoding="latin1"?><SoftwareIdentity`), rim.CheckParse},
		"two document elements":         {signed("</SoftwareIdentity>", "</SoftwareIdentity><x/>"), rim.CheckParse},
		"text after it":                 {signed("</SoftwareIdentity>", "</SoftwareIdentity>x"), rim.CheckParse},
		"no end":                        {signed("</SoftwareIdentity>", ""), rim.CheckParse},
		"an xml attribute":              {content("corpus=", `xml:id="x" corpus=`), rim.CheckParse},
		"an attribute twice":            {content(`corpus="false"`, `corpus="false" corpus="false"`), rim.CheckParse},
		"an attribute twice, by prefix": {content(`active="True"`, `xmlns:q="http://www.w3.org/2001/04/xmlenc#sha384" q:Hash0="00" active="True"`), rim.CheckParse},
		"a prefix without a namespace":  {content("<ns0:Entity", "<ns9:Entity"), rim.CheckParse},
		"two signatures":                {signed("<ds:Signature xmlns", `<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"></ds:Signature><ds:Signature xmlns`), rim.CheckParse},
		"a signature further down":      {content("</ns0:Payload>", `<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"></ds:Signature></ns0:Payload>`), rim.CheckParse},
		"no signature":                  {signed("ds:Signature ", "ds:Signatur "), rim.CheckParse},
		"two references":                {signed("</ds:SignedInfo>", `<ds:Reference URI=""></ds:Reference></ds:SignedInfo>`), rim.CheckParse},
		"a reference to a part":         {signed(`URI=""`, `URI="#x"`), rim.CheckParse},
		"a reference without URI":       {signed(` URI=""`, ``), rim.CheckParse},
		"an object in the signature":    {signed("</ds:Signature>", "<ds:Object></ds:Object></ds:Signature>"), rim.CheckParse},
		"an Id on the signature":        {signed("<ds:Signature xmlns", `<ds:Signature Id="x" xmlns`), rim.CheckParse},
		"exclusive canonicalization":    {signed("xml-c14n11", "xml-exc-c14n#"), rim.CheckParse},
		"an RSA signature":              {signed("#ecdsa-sha384", "#rsa-sha384"), rim.CheckParse},
		"SHA-256":                       {signed("more#sha384", "more#sha256"), rim.CheckParse},
		"no enveloped transform":        {signed("#enveloped-signature", "#other"), rim.CheckParse},
		"a third transform":             {signed("</ds:Transforms>", `<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"/></ds:Transforms>`), rim.CheckParse},
		"text among the certificates":   {signed("<ds:X509Data>", "<ds:X509Data>x"), rim.CheckParse},
		"another document element": {func(r *rimtest.RIM) {
			r.Content = func(s string) string { return strings.ReplaceAll(s, "SoftwareIdentity", "Other") }
		}, rim.CheckParse},
		"no version":                     {content(`colloquialVersion="550.90.07"`, ""), rim.CheckParse},
		"two payloads":                   {content("<ns0:Payload>", "<ns0:Payload></ns0:Payload><ns0:Payload>"), rim.CheckParse},
		"an element nobody knows":        {content("<ns0:Payload>", "<ns0:Link></ns0:Link><ns0:Payload>"), rim.CheckParse},
		"a measurement twice":            {content(`index="5"`, `index="6"`), rim.CheckParse},
		"an index with a zero in front":  {content(`index="5"`, `index="05"`), rim.CheckParse},
		"an index over the limit":        {content(`index="5"`, `index="256"`), rim.CheckParse},
		"active in another case":         {content(`active="True"`, `active="true"`), rim.CheckParse},
		"fewer alternatives than hashes": {content(`alternatives="13"`, `alternatives="12"`), rim.CheckParse},
		"more alternatives than hashes":  {content(`alternatives="13"`, `alternatives="14"`), rim.CheckParse},
		"another size":                   {content(`size="48"`, `size="32"`), rim.CheckParse},
		"a measurement changed":          {signed(`active="False"`, `active="True"`), rim.CheckDigest},
		"the version changed":            {signed("550.90.07", "550.90.08"), rim.CheckDigest},
		"white space added":              {signed("<ns0:Payload>", "<ns0:Payload>\n"), rim.CheckDigest},
		"white space in what is signed":  {signed("<ds:SignedInfo>", "<ds:SignedInfo>\n"), rim.CheckSignature},
		"a signer that expired":          {func(r *rimtest.RIM) { r.From, r.To = rimtest.Now.AddDate(-2, 0, 0), rimtest.Now.Add(-time.Second) }, rim.CheckValidity},
		"a signer of the future":         {func(r *rimtest.RIM) { r.From = rimtest.Now.Add(time.Second) }, rim.CheckValidity},
		"a CA as signer":                 {func(r *rimtest.RIM) { r.Signer = ca }, rim.CheckChain},
		"an OCSP responder as signer":    {func(r *rimtest.RIM) { r.Signer = responder }, rim.CheckChain},
		"a signer of another issuer":     {func(r *rimtest.RIM) { r.Signer = stranger }, rim.CheckChain},
		"a signer that may not sign":     {func(r *rimtest.RIM) { r.Signer = odd }, rim.CheckChain},
	} {
		t.Run(name, func(t *testing.T) {
			r := good()
			c.change(&r)
			raw, err := p.Mint(r)
			if err != nil {
				t.Fatal(err)
			}
			d, checks, err := rim.Verify(raw, o)
			if d != nil || failedIDs(checks) != c.want || !fault.Has(err, c.want) || len(checks) != 5 {
				t.Errorf("failed %q, want %q: %v", failedIDs(checks), c.want, err)
			}
		})
	}
	if _, _, err := rim.Verify(bytes.Repeat([]byte(" "), rim.MaxDocument+1), o); !fault.Has(err, rim.CheckParse) {
		t.Errorf("a document over the limit: %v", err)
	}
	if _, _, err := rim.Verify([]byte(strings.Repeat("<a>", 80_000)), o); !fault.Has(err, rim.CheckParse) {
		t.Errorf("a deep document: %v", err)
	}
}

// TestNoFlippedBitOfADocumentIsAccepted flips a bit of every thirteenth byte of
// a real document, each bit in turn.
func TestNoFlippedBitOfADocumentIsAccepted(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(vectors.Dir(t), "gpu", "rims", "NV_GPU_DRIVER_GH100_550.144.03.xml"))
	if err != nil {
		t.Fatal(err)
	}
	o := &rim.Options{Now: at(t, "2025-09-01T00:00:00Z")}
	if _, _, err := rim.Verify(raw, o); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(raw); i += 13 {
		bit := byte(1) << (i % 8)
		raw[i] ^= bit
		if _, _, err := rim.Verify(raw, o); err == nil {
			t.Errorf("byte %d bit %#x: accepted: %q", i, bit, raw[max(0, i-20):i+20])
		}
		raw[i] ^= bit
	}
}

func FuzzVerify(f *testing.F) {
	p, o := newPKI(f)
	raw, err := p.Mint(good())
	if err != nil {
		f.Fatal(err)
	}
	want, _, err := rim.Verify(raw, o)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`<?xml version="1.0"?><SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"/>`))
	f.Fuzz(func(t *testing.T, in []byte) {
		d, checks, err := rim.Verify(in, o)
		if len(checks) != 5 || (err == nil) != (d != nil) {
			t.Fatalf("%d checks, %v", len(checks), err)
		}
		if d != nil && (d.Version != want.Version || len(d.Measurements) != len(want.Measurements)) {
			t.Fatalf("accepted %q", in)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	raw, err := os.ReadFile(filepath.Join(vectors.Dir(b), "gpu", "rims", "NV_GPU_DRIVER_GH100_550.144.03.xml"))
	if err != nil {
		b.Fatal(err)
	}
	for name, cache := range map[string]*rim.Cache{"new": nil, "cached": rim.NewCache()} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := rim.Verify(raw, &rim.Options{Now: at(b, "2025-09-01T00:00:00Z"), Cache: cache}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
