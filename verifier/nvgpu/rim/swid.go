package rim

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"
)

// Namespaces of the content.
const (
	nsSWID   = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
	nsRIM    = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
	nsSHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
)

// maxText bounds an attribute that is shown.
const maxText = 128

// read takes the content out of a SoftwareIdentity element.
func (d *Document) read(root *etree.Element) error {
	if root.Tag != "SoftwareIdentity" || root.NamespaceURI() != nsSWID {
		return fmt.Errorf("document element is %.40q, want SoftwareIdentity", root.FullTag())
	}
	if err := blank(root); err != nil {
		return err
	}
	var meta, payload *etree.Element
	for _, c := range root.ChildElements() {
		if c.NamespaceURI() != nsSWID {
			return fmt.Errorf("element %.40q is not taken", c.FullTag())
		}
		switch {
		case c.Tag == "Entity":
		case c.Tag == "Meta" && meta == nil:
			meta = c
		case c.Tag == "Payload" && payload == nil:
			payload = c
		default:
			return fmt.Errorf("element %.40q is not taken, or not twice", c.FullTag())
		}
		if err := blank(c); err != nil {
			return err
		}
		if c.Tag != "Payload" && len(c.ChildElements()) != 0 {
			return fmt.Errorf("element %.40q has elements", c.FullTag())
		}
	}
	if meta == nil || payload == nil {
		return errors.New("the document has no Meta or no Payload")
	}
	var errs []error
	text := func(el *etree.Element, ns, key string) string {
		v := attr(el, ns, key)
		if v == "" || len(v) > maxText {
			errs = append(errs, fmt.Errorf("attribute %s of %s is missing or too long", key, el.Tag))
			return ""
		}
		return v
	}
	d.Name, d.TagID = text(root, "", "name"), text(root, "", "tagId")
	d.Version, d.Product = text(meta, "", "colloquialVersion"), text(meta, "", "product")
	d.Edition = text(meta, "", "edition")
	d.ManufacturerID = text(meta, nsRIM, "FirmwareManufacturerId")
	if b, err := hex.DecodeString(d.TagID); err != nil || len(b) != 48 {
		errs = append(errs, errors.New("tagId is not 96 hex digits"))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	list := payload.ChildElements()
	if len(list) == 0 || len(list) > MaxMeasurements {
		return fmt.Errorf("%d measurements, want 1 to %d", len(list), MaxMeasurements)
	}
	seen := map[int]bool{}
	for _, el := range list {
		m, err := readMeasurement(el)
		if err != nil {
			return err
		}
		if seen[m.Index] {
			return fmt.Errorf("measurement %d is there twice", m.Index)
		}
		seen[m.Index] = true
		d.Measurements = append(d.Measurements, m)
	}
	slices.SortFunc(d.Measurements, func(a, b Measurement) int { return a.Index - b.Index })
	return nil
}

func readMeasurement(el *etree.Element) (Measurement, error) {
	var m Measurement
	bad := func(what string) (Measurement, error) {
		return Measurement{}, fmt.Errorf("measurement %.8q: %s", attr(el, "", "index"), what)
	}
	if el.Tag != "Resource" || el.NamespaceURI() != nsSWID || attr(el, "", "type") != "Measurement" || len(el.Child) != 0 {
		return bad("not a Resource of type Measurement")
	}
	var err error
	if m.Index, err = number(attr(el, "", "index"), MaxMeasurements-1); err != nil {
		return bad("index " + err.Error())
	}
	switch attr(el, "", "active") {
	case "True":
		m.Active = true
	case "False":
	default:
		return bad("active is neither True nor False")
	}
	if attr(el, "", "size") != strconv.Itoa(len(Hash{})) {
		return bad("size is not 48")
	}
	if m.Name = attr(el, "", "name"); len(m.Name) > maxText {
		return bad("its name is too long")
	}
	n, err := number(attr(el, "", "alternatives"), MaxAlternatives)
	if err != nil || n == 0 {
		return bad("alternatives are not 1 to " + strconv.Itoa(MaxAlternatives))
	}
	for i := range n {
		b, err := hex.DecodeString(attr(el, nsSHA384, "Hash"+strconv.Itoa(i)))
		if err != nil || len(b) != len(Hash{}) {
			return bad(fmt.Sprintf("Hash%d is not 96 hex digits", i))
		}
		m.Alternatives = append(m.Alternatives, Hash(b))
	}
	hashes := 0
	for i := range el.Attr {
		if strings.HasPrefix(el.Attr[i].Key, "Hash") {
			hashes++
		}
	}
	if hashes != n {
		return bad(fmt.Sprintf("%d hashes, %d announced", hashes, n))
	}
	return m, nil
}

// attr returns the attribute of this namespace and name, or nothing. That
// there is one at most was checked before.
func attr(el *etree.Element, ns, key string) string {
	for i := range el.Attr {
		a := &el.Attr[i]
		if a.Key == key && ((ns == "" && a.Space == "") || (ns != "" && a.Space != "" && a.Space != "xmlns" && a.NamespaceURI() == ns)) {
			return a.Value
		}
	}
	return ""
}

// number reads a decimal number in its one form.
func number(s string, limit int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > limit || strconv.Itoa(n) != s {
		return 0, fmt.Errorf("is not a number of 0 to %d", limit)
	}
	return n, nil
}
