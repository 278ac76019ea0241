package pcs

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/verifier/collateral"
)

// maxHeader bounds a response's headers: a chain of collateral.MaxChain bytes
// grows threefold at most when it is URL-encoded.
const maxHeader = 4 * collateral.MaxChain

// limit returns the largest body that is read for a kind of part: what
// package collateral takes, and the wrapping of the API around it (a CRL may
// come as hex).
func (k kind) limit() int {
	switch k {
	case kindTCBInfo:
		return collateral.MaxTCBInfo + 1<<10
	case kindQEIdentity:
		return collateral.MaxIdentity + 1<<10
	default:
		return 2*collateral.MaxCRL + 1<<10
	}
}

// part is one fetched part, its signature not yet believed.
type part struct {
	Body      []byte `json:"body"`                // the exact signed bytes, or the CRL's DER
	Signature []byte `json:"signature,omitempty"` // 64 bytes, of documents only
	Chain     []byte `json:"chain,omitempty"`     // PEM issuer chain; none for the root CRL
}

// decode takes a response apart as the API documentation of each endpoint
// says (PCS API v4: "Get TCB Info", "Get Quoting Enclave Identity", "Get
// Revocation List"; PCCS: "Get Root CA CRL").
func decode(ref partRef, resp *response) (*part, error) {
	switch ref.kind {
	case kindTCBInfo:
		var doc struct {
			Body      json.RawMessage `json:"tcbInfo"`
			Signature string          `json:"signature"`
		}
		return decodeDocument(resp, &doc, &doc.Body, &doc.Signature, headerTCBInfo, headerTCBInfoOld)
	case kindQEIdentity:
		var doc struct {
			Body      json.RawMessage `json:"enclaveIdentity"`
			Signature string          `json:"signature"`
		}
		return decodeDocument(resp, &doc, &doc.Body, &doc.Signature, headerQE)
	case kindPCKCRL:
		der, err := decodeCRL(resp.body)
		if err != nil {
			return nil, err
		}
		chain, err := issuerChain(resp, headerPCKCRL)
		if err != nil {
			return nil, err
		}
		return &part{Body: der, Chain: chain}, nil
	case kindRootCRL:
		der, err := decodeCRL(resp.body)
		if err != nil {
			return nil, err
		}
		return &part{Body: der}, nil
	}
	return nil, fmt.Errorf("unknown part %q", ref.kind)
}

// decodeDocument reads {"<name>": {…}, "signature": "<hex>"} into doc, whose
// fields body and signature point to; the body's bytes stay as they came,
// since they are what is signed.
func decodeDocument(resp *response, doc any, body *json.RawMessage, signature *string, headers ...string) (*part, error) {
	if err := jcs.Decode(resp.body, len(resp.body), doc); err != nil {
		return nil, err
	}
	if len(*body) == 0 {
		return nil, errors.New("the signed document is missing")
	}
	sig, err := hex.DecodeString(*signature)
	if err != nil || len(sig) != 64 {
		return nil, errors.New("the signature is not 64 bytes of hex")
	}
	chain, err := issuerChain(resp, headers...)
	if err != nil {
		return nil, err
	}
	return &part{Body: *body, Signature: sig, Chain: chain}, nil
}

// issuerChain reads the URL-encoded PEM chain from the first header present.
func issuerChain(resp *response, names ...string) ([]byte, error) {
	for _, name := range names {
		v := resp.header.Get(name)
		if v == "" {
			continue
		}
		if len(v) > 3*collateral.MaxChain {
			return nil, fmt.Errorf("header %s is longer than %d bytes", name, 3*collateral.MaxChain)
		}
		// PathUnescape, not QueryUnescape: a service may send base64's plus
		// sign unescaped.
		chain, err := url.PathUnescape(v)
		if err != nil {
			return nil, fmt.Errorf("decoding header %s: %w", name, err)
		}
		if block, _ := pem.Decode([]byte(chain)); block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("header %s has no PEM certificate", name)
		}
		return []byte(chain), nil
	}
	return nil, fmt.Errorf("header %s is missing", names[0])
}

// decodeCRL takes a CRL as DER, as PEM, or as hex of DER: Intel's service
// sends the first two, a PCCS the first or the last.
func decodeCRL(body []byte) ([]byte, error) {
	text := bytes.TrimSpace(body)
	switch {
	case len(text) == 0:
		return nil, errors.New("the CRL is empty")
	case body[0] == 0x30 && !isHex(text):
		return body, nil // ASN.1 SEQUENCE
	case bytes.HasPrefix(text, []byte("-----BEGIN")):
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "X509 CRL" || len(bytes.TrimSpace(rest)) != 0 {
			return nil, errors.New("the CRL is not one PEM block")
		}
		return block.Bytes, nil
	case isHex(text):
		der := make([]byte, hex.DecodedLen(len(text)))
		if _, err := hex.Decode(der, text); err != nil {
			return nil, fmt.Errorf("decoding the CRL's hex: %w", err)
		}
		return der, nil
	}
	return nil, errors.New("the CRL is neither DER, PEM nor hex")
}

// isHex reports whether all of b is hex digits. DER begins with 0x30, the
// digit '0', too; its second byte, a length, settles it for any real CRL.
func isHex(b []byte) bool {
	for _, c := range b {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
			return false
		}
	}
	return true
}

// malformed is the fault for an answer that is not what the API says.
func malformed(url string, err error) *fault.Fault {
	return fault.New(fault.ExitNetwork, "dcap.collateral.fetch.malformed",
		"use Intel's service or another cache: this one does not answer as the API says",
		"reading the answer of %s: %w", url, err).Expect("an answer as Intel's API says")
}
