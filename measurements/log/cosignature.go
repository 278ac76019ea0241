package log

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// ErrNotCosigned is returned for checkpoints without a witness's signature.
var ErrNotCosigned = errors.New("the checkpoint has no cosignature by this witness")

// ParseWitness reads a witness's verifier key (C2SP signed-note, type 0x04:
// tlog-cosignature) in the one form that a witness shows, and returns the raw
// Ed25519 key.
func ParseWitness(vkey string) (ed25519.PublicKey, error) {
	if _, err := witnessKey(vkey); err != nil {
		return nil, err
	}
	name, rest, _ := strings.Cut(vkey, "+")
	_, text, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != cosignatureV1 {
		return nil, fmt.Errorf("reading a witness's key: no key of a witness: %w", ErrForm)
	}
	sum := sha256.Sum256(append([]byte(name+"\n"), raw...))
	if vkey != fmt.Sprintf("%s+%x+%s", name, sum[:4], base64.StdEncoding.EncodeToString(raw)) {
		return nil, fmt.Errorf("reading a witness's key: the id is not that of the key: %w", ErrForm)
	}
	return raw[1:], nil
}

// cosignatureV1 is the type of a witness's key.
const cosignatureV1 = 4

func witnessKey(vkey string) (note.Verifier, error) {
	v, err := fnote.NewVerifierForCosignatureV1(vkey)
	if err != nil {
		return nil, fmt.Errorf("reading a witness's key: %w: %w", ErrForm, err)
	}
	return v, nil
}

// CheckCosignature verifies that a witness has cosigned a checkpoint, a signed
// note (C2SP tlog-cosignature), and returns when: at that time it was the only
// state of its log, as far as the witness says.
func CheckCosignature(checkpoint []byte, vkey string) (time.Time, error) {
	v, err := witnessKey(vkey)
	if err != nil {
		return time.Time{}, err
	}
	if len(checkpoint) > MaxCheckpoint {
		return time.Time{}, fmt.Errorf("reading a checkpoint of %d bytes: %w", len(checkpoint), ErrForm)
	}
	n, err := note.Open(checkpoint, note.VerifierList(v))
	if err != nil {
		return time.Time{}, fmt.Errorf("verifying the cosignature of %s: %w: %w", v.Name(), ErrNotCosigned, err)
	}
	at, err := fnote.CoSigV1Timestamp(n.Sigs[0])
	if err != nil {
		return time.Time{}, fmt.Errorf("verifying the cosignature of %s: %w: %w", v.Name(), ErrNotCosigned, err)
	}
	return at.UTC(), nil
}
