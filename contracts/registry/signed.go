package registry

import (
	"encoding/base64"
	"fmt"

	"cocoon/internal/hexbytes"
	"cocoon/internal/jcs"
	"cocoon/internal/toncell"
)

// Limits of an order that comes as a document: its code may be long.
const (
	maxDocument = 512 << 10
	maxCells    = 4096
	maxDepth    = 400 // a chain of 128 entries with code at its end
)

// SignedOrder is an order on its way from owner to owner.
type SignedOrder struct {
	Order      *Order
	Signatures []OwnerSignature
}

type signedDocument struct {
	Order      string              `json:"order"` // base64 of a bag of cells
	Signatures []signatureDocument `json:"signatures"`
}

type signatureDocument struct {
	Index     uint8        `json:"index"`
	Signature hexbytes.Sig `json:"signature"`
}

// Add adds a signature; one of the same owner is replaced.
func (s *SignedOrder) Add(sig OwnerSignature) { s.Signatures = addSignature(s.Signatures, sig) }

func addSignature(list []OwnerSignature, sig OwnerSignature) []OwnerSignature {
	for i := range list {
		if list[i].Index == sig.Index {
			list[i] = sig
			return list
		}
	}
	return append(list, sig)
}

func signatureDocuments(list []OwnerSignature) []signatureDocument {
	out := []signatureDocument{}
	for _, sig := range list {
		out = append(out, signatureDocument{sig.Index, sig.Sig})
	}
	return out
}

func signaturesOf(docs []signatureDocument) ([]OwnerSignature, error) {
	if len(docs) > MaxOwners {
		return nil, fmt.Errorf("%d signatures, at most %d", len(docs), MaxOwners)
	}
	var list []OwnerSignature
	for _, d := range docs {
		list = addSignature(list, OwnerSignature{Index: d.Index, Sig: d.Signature})
	}
	return list, nil
}

// Marshal writes the document.
func (s *SignedOrder) Marshal() ([]byte, error) {
	c, err := s.Order.Cell()
	if err != nil {
		return nil, err
	}
	return jcs.Marshal(signedDocument{Order: base64.StdEncoding.EncodeToString(c.ToBOC()), Signatures: signatureDocuments(s.Signatures)})
}

// ParseSignedOrder reads the document, from an untrusted source. It checks no
// signature.
func ParseSignedOrder(b []byte) (*SignedOrder, error) {
	var doc signedDocument
	if err := jcs.Decode(b, maxDocument, &doc); err != nil {
		return nil, fmt.Errorf("reading an order's document: %w", err)
	}
	boc, err := base64.StdEncoding.Strict().DecodeString(doc.Order)
	if err != nil {
		return nil, fmt.Errorf("reading an order's document: %w", err)
	}
	c, err := toncell.ParseBOC(boc, toncell.Limits{Bytes: maxDocument, Cells: maxCells, Depth: maxDepth})
	if err != nil {
		return nil, fmt.Errorf("reading an order's document: %w", err)
	}
	s := &SignedOrder{}
	if s.Order, err = ReadOrder(c); err != nil {
		return nil, err
	}
	if s.Signatures, err = signaturesOf(doc.Signatures); err != nil {
		return nil, fmt.Errorf("reading an order's document: %w", err)
	}
	return s, nil
}

// SignedVeto is a veto on its way from owner to owner.
type SignedVeto struct {
	Order      [32]byte // hash of the order's cell
	Signatures []OwnerSignature
}

type vetoDocument struct {
	Veto       hexbytes.Hash       `json:"veto"`
	Signatures []signatureDocument `json:"signatures"`
}

// Add adds a signature; one of the same owner is replaced.
func (v *SignedVeto) Add(sig OwnerSignature) { v.Signatures = addSignature(v.Signatures, sig) }

// Marshal writes the document.
func (v *SignedVeto) Marshal() ([]byte, error) {
	return jcs.Marshal(vetoDocument{Veto: v.Order, Signatures: signatureDocuments(v.Signatures)})
}

// ParseSignedVeto reads the document of a veto of this order. It checks no
// signature.
func ParseSignedVeto(b []byte, order [32]byte) (*SignedVeto, error) {
	var doc vetoDocument
	if err := jcs.Decode(b, maxDocument, &doc); err != nil {
		return nil, fmt.Errorf("reading a veto's document: %w", err)
	}
	if doc.Veto != order {
		return nil, fmt.Errorf("reading a veto's document: it is of order %s, not %s", doc.Veto, hexbytes.Hash(order))
	}
	list, err := signaturesOf(doc.Signatures)
	if err != nil {
		return nil, fmt.Errorf("reading a veto's document: %w", err)
	}
	return &SignedVeto{Order: order, Signatures: list}, nil
}
