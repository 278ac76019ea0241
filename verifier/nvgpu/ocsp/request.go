package ocsp

import (
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"cocoon/internal/fault"
)

// MaxRequest bounds a request in bytes.
const MaxRequest = 1 << 10

// Request is what a caching service has to know of a request.
type Request struct {
	Hash               string // OID of the digest of the two hashes
	NameHash, IssuerID []byte // hashes of the issuer's name and key
	Serial             *big.Int
	Nonce              []byte // nil: none
}

// Key names the certificate that is asked about.
func (r *Request) Key() string {
	return fmt.Sprintf("%s %s %s %s", r.Hash, hex.EncodeToString(r.NameHash), hex.EncodeToString(r.IssuerID), r.Serial.Text(16))
}

// ParseRequest reads a request for one certificate, unsigned, with at most a
// nonce. Anything else is refused with the code ocsp.request.
func ParseRequest(der []byte) (*Request, error) {
	bad := func(err error) error {
		return fault.New(fault.ExitParse, "ocsp.request", "ask about one certificate, unsigned", "reading OCSP request: %w", err)
	}
	if len(der) > MaxRequest {
		return nil, bad(fmt.Errorf("request of %d bytes, limit %d", len(der), MaxRequest))
	}
	r := &Request{Serial: new(big.Int)}
	var top, tbs, list, single, id, alg, null, exts cryptobyte.String
	var oid asn1.ObjectIdentifier
	var has bool
	in := cryptobyte.String(der)
	if !in.ReadASN1(&top, cbasn1.SEQUENCE) || !in.Empty() || !top.ReadASN1(&tbs, cbasn1.SEQUENCE) || !top.Empty() ||
		!tbs.ReadASN1(&list, cbasn1.SEQUENCE) || !list.ReadASN1(&single, cbasn1.SEQUENCE) || !list.Empty() ||
		!single.ReadASN1(&id, cbasn1.SEQUENCE) || !single.Empty() ||
		!id.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) ||
		!id.ReadASN1Bytes(&r.NameHash, cbasn1.OCTET_STRING) || !id.ReadASN1Bytes(&r.IssuerID, cbasn1.OCTET_STRING) ||
		!id.ReadASN1Integer(r.Serial) || !id.Empty() {
		return nil, bad(errForm)
	}
	if !alg.Empty() && (!alg.ReadASN1(&null, cbasn1.NULL) || !null.Empty() || !alg.Empty()) {
		return nil, bad(errForm)
	}
	if r.Hash = oid.String(); hashes()[r.Hash] == 0 {
		return nil, bad(fmt.Errorf("certificate named with hash %s", oid))
	}
	if !tbs.ReadOptionalASN1(&exts, &has, context(2).Constructed()) || !tbs.Empty() {
		return nil, bad(errForm)
	}
	if has {
		var a answer
		if err := a.parseExtensions(exts, true); err != nil {
			return nil, bad(err)
		}
		r.Nonce = a.Nonce
	}
	return r, nil
}

// Peek reads an answer without verifying it: what it says, and the Key of the
// request that it answers. A caching service uses it to know how long to keep
// an answer; whoever relies on one calls Verify.
func Peek(der []byte) (*Response, string, error) {
	a, err := parse(der)
	if err != nil {
		return nil, "", fault.New(fault.ExitParse, "ocsp.parse", "ask the responder again", "reading OCSP response: %w", err)
	}
	if a.status != 0 {
		f := fault.New(fault.ExitNetwork, "ocsp.refused", "check which certificate is asked for, or try again later", "asking OCSP responder: it gave no answer")
		f.Expected, f.Actual = "successful", statusText(a.status)
		return nil, "", f
	}
	for oid, h := range hashes() {
		if h == a.hash {
			id := Request{Hash: oid, NameHash: a.id.name, IssuerID: a.id.key, Serial: a.serial}
			return &a.Response, id.Key(), nil
		}
	}
	return nil, "", fault.New(fault.ExitParse, "ocsp.parse", "", "reading OCSP response: %w", errForm)
}
