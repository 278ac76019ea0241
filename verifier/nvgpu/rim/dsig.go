package rim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"
	"github.com/russellhaering/goxmldsig/etreeutils"
)

// Names of XML Signature 1.1 and the algorithms of the profile: one each.
const (
	nsSignature = "http://www.w3.org/2000/09/xmldsig#"
	algC14N11   = "http://www.w3.org/2006/12/xml-c14n11"
	algECDSA    = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
	algSHA384   = "http://www.w3.org/2001/04/xmldsig-more#sha384"
	algEnvelope = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
)

const (
	maxDepth  = 8  // of elements; the profile has 5
	maxAttrs  = 64 // of one element, namespace declarations included
	sizeP384  = 48 // bytes of r, of s
	xmlPrefix = "xml"
)

// signed is a document that was read, and what its signature is made of.
type signed struct {
	doc       Document
	digest    []byte // as the signature states it
	actual    [sha512.Size384]byte
	info      [sha512.Size384]byte // digest of the canonical SignedInfo
	signature []byte               // r ‖ s
	certs     []*x509.Certificate  // leaf first
}

// parse reads a document of the profile. What it returns was taken from the
// very element whose canonical form was digested, after the signature was
// taken out of it (XML Signature 1.1, section 8.1.2, "see what is signed").
func parse(raw []byte) (*signed, error) {
	root, err := parseTree(raw)
	if err != nil {
		return nil, err
	}
	sig, err := only(root, nsSignature, "Signature")
	if err != nil {
		return nil, err
	}
	s := &signed{}
	if err := s.readSignature(sig); err != nil {
		return nil, err
	}
	// Enveloped-signature transform: the element less its signature.
	if root.RemoveChild(sig) == nil {
		return nil, errors.New("the signature is not in the document element")
	}
	canon, err := dsig.MakeC14N11Canonicalizer().Canonicalize(root)
	if err != nil {
		return nil, fmt.Errorf("canonicalising the document: %w", err)
	}
	s.actual = sha512.Sum384(canon)
	return s, s.doc.read(root)
}

// declaration is the only form of XML declaration that is taken.
var declaration = regexp.MustCompile(`^<\?xml version=(?:"1\.0"|'1\.0')(?: encoding=(?:"(?i:utf-8)"|'(?i:utf-8)'))?(?: standalone=(?:"(?:yes|no)"|'(?:yes|no)'))? ?\?>`)

// parseTree reads XML without what could make two readers see two documents:
// document types and their entities, comments, processing instructions, CDATA
// sections, attributes of the xml namespace, attributes or prefixes given
// twice, prefixes without a namespace.
func parseTree(raw []byte) (*etree.Element, error) {
	if len(raw) > MaxDocument {
		return nil, fmt.Errorf("document of %d bytes, limit %d", len(raw), MaxDocument)
	}
	if !utf8.Valid(raw) || bytes.IndexByte(raw, 0) >= 0 {
		return nil, errors.New("document is not UTF-8 text")
	}
	raw = raw[len(declaration.Find(raw)):]
	for _, s := range []string{"<!", "<?"} {
		if bytes.Contains(raw, []byte(s)) {
			return nil, fmt.Errorf("document has a %q construct, which the profile excludes", s)
		}
	}
	tree := etree.NewDocument()
	tree.ReadSettings = etree.ReadSettings{PreserveDuplicateAttrs: true, MaxDepth: maxDepth}
	if err := tree.ReadFromBytes(raw); err != nil {
		return nil, fmt.Errorf("reading XML: %w", err)
	}
	root := tree.Root()
	if root == nil || len(tree.ChildElements()) != 1 {
		return nil, errors.New("document has not exactly one document element")
	}
	if err := blank(&tree.Element); err != nil {
		return nil, err
	}
	return root, checkTree(root)
}

// checkTree checks names and attributes of an element and all below it.
func checkTree(el *etree.Element) error {
	if len(el.Attr) > maxAttrs {
		return fmt.Errorf("element %.40q has %d attributes, limit %d", el.Tag, len(el.Attr), maxAttrs)
	}
	if el.Tag == "" || strings.Contains(el.Tag, ":") || (el.Space != "" && el.NamespaceURI() == "") {
		return fmt.Errorf("element %.40q has no namespace for its prefix", el.FullTag())
	}
	seen := map[string]bool{}
	for i := range el.Attr {
		a := &el.Attr[i]
		name := a.Key
		switch {
		case a.Key == "" || strings.Contains(a.Key, ":") || a.Space == xmlPrefix:
			return fmt.Errorf("attribute %.40q is not taken", a.FullKey())
		case a.Space == "xmlns":
			if a.Value == "" || strings.HasPrefix(a.Key, xmlPrefix) {
				return fmt.Errorf("namespace declaration %.40q is not taken", a.FullKey())
			}
			name = "xmlns:" + a.Key
		case a.Space != "":
			uri := a.NamespaceURI()
			if uri == "" {
				return fmt.Errorf("attribute %.40q has no namespace for its prefix", a.FullKey())
			}
			name = uri + " " + a.Key
		}
		if seen[name] {
			return fmt.Errorf("attribute %.40q is given twice", a.FullKey())
		}
		seen[name] = true
	}
	for _, c := range el.ChildElements() {
		if err := checkTree(c); err != nil {
			return err
		}
	}
	return nil
}

// readSignature reads a Signature element strictly: each part is there, once,
// in its order, with no attribute and no text that the profile does not have.
func (s *signed) readSignature(sig *etree.Element) error {
	if err := attrsOnly(sig); err != nil {
		return err
	}
	p, err := parts(sig, "SignedInfo", "SignatureValue", "KeyInfo")
	if err != nil {
		return err
	}
	info, value, key := p[0], p[1], p[2]
	if p, err = parts(info, "CanonicalizationMethod", "SignatureMethod", "Reference"); err != nil {
		return err
	}
	ref := p[2]
	errs := []error{attrsOnly(info), algorithm(p[0], algC14N11), algorithm(p[1], algECDSA), attrsOnly(ref, "URI")}
	if uri := ref.SelectAttr("URI"); uri == nil || uri.Value != "" {
		errs = append(errs, errors.New("reference is not to the whole document"))
	}
	if p, err = parts(ref, "Transforms", "DigestMethod", "DigestValue"); err != nil {
		return err
	}
	transforms, method, digest := p[0], p[1], p[2]
	errs = append(errs, attrsOnly(transforms), algorithm(method, algSHA384))
	if p, err = parts(transforms, "Transform", "Transform"); err != nil {
		return err
	}
	errs = append(errs, algorithm(p[0], algEnvelope), algorithm(p[1], algC14N11))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if s.digest, err = base64Of(digest, sha512.Size384); err != nil {
		return err
	}
	if s.signature, err = base64Of(value, 2*sizeP384); err != nil {
		return err
	}
	if err := s.readCerts(key); err != nil {
		return err
	}
	// SignedInfo is canonicalised in the namespaces of its place (Canonical
	// XML 1.1, section 2.4: inclusive).
	ctx, err := etreeutils.NSBuildParentContext(info)
	if err != nil {
		return fmt.Errorf("canonicalising the signed information: %w", err)
	}
	detached, err := etreeutils.NSDetatch(ctx, info)
	if err != nil {
		return fmt.Errorf("canonicalising the signed information: %w", err)
	}
	canon, err := dsig.MakeC14N11Canonicalizer().Canonicalize(detached)
	if err != nil {
		return fmt.Errorf("canonicalising the signed information: %w", err)
	}
	s.info = sha512.Sum384(canon)
	return nil
}

func (s *signed) readCerts(key *etree.Element) error {
	p, err := parts(key, "X509Data")
	if err != nil {
		return err
	}
	data := p[0]
	if err := errors.Join(attrsOnly(key), attrsOnly(data), blank(data)); err != nil {
		return err
	}
	list := data.ChildElements()
	if len(list) < 2 || len(list) > MaxChain {
		return fmt.Errorf("chain of %d certificates, want 2 to %d", len(list), MaxChain)
	}
	for i, el := range list {
		if el.Tag != "X509Certificate" || el.NamespaceURI() != nsSignature {
			return fmt.Errorf("element %.40q among the certificates", el.FullTag())
		}
		der, err := base64Of(el, -1)
		if err != nil {
			return err
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("reading certificate %d: %w", i+1, err)
		}
		s.certs = append(s.certs, c)
	}
	return nil
}

func (s *signed) checkDigest() error {
	if !bytes.Equal(s.digest, s.actual[:]) {
		return &mismatchError{"digest of the document", hex.EncodeToString(s.digest), hex.EncodeToString(s.actual[:])}
	}
	return nil
}

// checkSignature verifies ECDSA over P-384 with SHA-384 (RFC 4051, section
// 3.4.1): the value is r ‖ s, 48 bytes big-endian each, not DER.
func (s *signed) checkSignature() error {
	key, ok := s.certs[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return errors.New("the signer's key is not ECDSA P-384")
	}
	r, v := new(big.Int).SetBytes(s.signature[:sizeP384]), new(big.Int).SetBytes(s.signature[sizeP384:])
	if !ecdsa.Verify(key, s.info[:], r, v) {
		return errors.New("signature does not verify")
	}
	return nil
}

// only returns the one child element with this name, and refuses more of them
// at any depth.
func only(el *etree.Element, ns, tag string) (*etree.Element, error) {
	var found *etree.Element
	count := 0
	var walk func(*etree.Element)
	walk = func(e *etree.Element) {
		for _, c := range e.ChildElements() {
			if c.Tag == tag && c.NamespaceURI() == ns {
				count++
				if e == el {
					found = c
				}
			}
			walk(c)
		}
	}
	walk(el)
	if found == nil || count != 1 {
		return nil, fmt.Errorf("%d %s elements, want one, in the document element", count, tag)
	}
	return found, nil
}

// parts returns the children of el, which are exactly these elements of XML
// Signature in this order.
func parts(el *etree.Element, tags ...string) ([]*etree.Element, error) {
	list := el.ChildElements()
	if len(list) != len(tags) {
		return nil, fmt.Errorf("%s has %d elements, want %d", el.Tag, len(list), len(tags))
	}
	for i, c := range list {
		if c.Tag != tags[i] || c.NamespaceURI() != nsSignature {
			return nil, fmt.Errorf("%s has %.40q where %s should be", el.Tag, c.FullTag(), tags[i])
		}
	}
	return list, blank(el)
}

// algorithm checks an element that names an algorithm and nothing else.
func algorithm(el *etree.Element, want string) error {
	a := el.SelectAttr("Algorithm")
	if a == nil || a.Value != want || len(el.ChildElements()) != 0 {
		return fmt.Errorf("%s is not %s", el.Tag, want)
	}
	return errors.Join(attrsOnly(el, "Algorithm"), blank(el))
}

// attrsOnly refuses attributes other than the named ones, without a prefix,
// and the declaration of the signature's namespace.
func attrsOnly(el *etree.Element, names ...string) error {
	for _, a := range el.Attr {
		ok := (a.Space == "xmlns" || (a.Space == "" && a.Key == "xmlns")) && a.Value == nsSignature && el.Tag == "Signature"
		for _, n := range names {
			ok = ok || (a.Space == "" && a.Key == n)
		}
		if !ok {
			return fmt.Errorf("attribute %.40q of %s is not taken", a.FullKey(), el.Tag)
		}
	}
	return nil
}

// blank refuses text other than white space between the children of el.
func blank(el *etree.Element) error {
	for _, t := range el.Child {
		if c, ok := t.(*etree.CharData); ok && strings.Trim(c.Data, " \t\r\n") != "" {
			return fmt.Errorf("text %.20q in %.40q", c.Data, el.Tag)
		}
	}
	return nil
}

// base64Of decodes the text of a leaf element: size bytes, or any number
// where size is negative.
func base64Of(el *etree.Element, size int) ([]byte, error) {
	if err := attrsOnly(el); err != nil {
		return nil, err
	}
	text := ""
	for _, t := range el.Child {
		c, ok := t.(*etree.CharData)
		if !ok {
			return nil, fmt.Errorf("%s holds more than text", el.Tag)
		}
		text += c.Data
	}
	text = strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "").Replace(text)
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", el.Tag, err)
	}
	if size >= 0 && len(b) != size {
		return nil, fmt.Errorf("%s has %d bytes, want %d", el.Tag, len(b), size)
	}
	return b, nil
}
