package journal

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"cocoon/internal/verdictcell"
	"cocoon/measurements/digest"
	"cocoon/verifier/result"
)

// EntryOf returns the entry that a verifier's log must have for a verdict: its
// token, which result.VerifyEAR accepted, and the verdict for contracts that
// came with it, "" for none.
func EntryOf(token string, e *result.EAR, cell string) (*Entry, error) {
	var header struct {
		KeyID digest.SHA256 `json:"kid"`
	}
	head, _, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	if err == nil {
		err = json.Unmarshal(b, &header)
	}
	if err != nil {
		return nil, fmt.Errorf("reading verdict's key id: %w: %w", ErrEntry, err)
	}
	out := &Entry{Time: time.Unix(e.IssuedAt, 0).UTC(), Expires: time.Unix(e.Expires, 0).UTC(), Key: header.KeyID, Verdict: digest.Sum256([]byte(token)),
		Evidence: e.EvidenceSHA256, Policy: e.PolicySHA256, Manifest: e.Manifest.SHA256}
	if cell != "" {
		var v verdictcell.Verdict
		if err := v.UnmarshalText([]byte(cell)); err != nil {
			return nil, fmt.Errorf("reading the verdict for contracts: %w", err)
		}
		if out.Cell, err = v.Hash(); err != nil {
			return nil, fmt.Errorf("hashing the verdict for contracts: %w", err)
		}
	}
	return out, out.validate()
}
