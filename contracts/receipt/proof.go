package receipt

import (
	"fmt"

	"cocoon/internal/jcs"
)

// MaxProof bounds an inclusion proof's document.
const MaxProof = 8 << 10

// maxPath bounds an audit path: a level for each bit of a count.
const maxPath = 64

// Proof is a receipt's place under the root over the first Count receipts of
// its job (RFC 6962, section 2.1.1).
type Proof struct {
	Seq   uint64 `json:"seq"` // the receipt's number, from 1
	Count uint64 `json:"count"`
	Root  Hash   `json:"root"`
	Path  []Hash `json:"path"` // from the leaf's sibling up
}

// Marshal returns the proof's JCS.
func (p *Proof) Marshal() ([]byte, error) {
	out := *p
	if out.Path == nil {
		out.Path = []Hash{}
	}
	return jcs.Marshal(out)
}

// ParseProof reads a proof from an untrusted source. It checks form; Included
// checks the rest, against a root that the caller trusts.
func ParseProof(doc []byte) (*Proof, error) {
	var p Proof
	if err := jcs.DecodeCanonical(doc, MaxProof, &p); err != nil {
		return nil, malformed("proof", err)
	}
	if p.Seq < 1 || p.Seq > p.Count || p.Count > maxNumber || len(p.Path) > maxPath {
		return nil, malformed("proof", fmt.Errorf("receipt %d of %d with %d hashes", p.Seq, p.Count, len(p.Path)))
	}
	return &p, nil
}
