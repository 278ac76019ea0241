package witness

import (
	"errors"
	"fmt"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/log"
)

// ErrNotCosigned is returned for checkpoints without a witness's signature.
var ErrNotCosigned = errors.New("the checkpoint has no cosignature by this witness")

// Check verifies that a witness has cosigned a checkpoint, and returns when: at
// that time it was the only state of its log, as far as the witness says.
func Check(checkpoint []byte, vkey string) (time.Time, error) {
	v, err := fnote.NewVerifierForCosignatureV1(vkey)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading a witness's key: %w: %w", log.ErrForm, err)
	}
	if len(checkpoint) > log.MaxCheckpoint {
		return time.Time{}, fmt.Errorf("reading a checkpoint of %d bytes: %w", len(checkpoint), log.ErrForm)
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
