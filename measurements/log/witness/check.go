package witness

import (
	"time"

	"cocoon/measurements/log"
)

// ErrNotCosigned is returned for checkpoints without a witness's signature.
var ErrNotCosigned = log.ErrNotCosigned

// Check verifies that a witness has cosigned a checkpoint, and returns when: at
// that time it was the only state of its log, as far as the witness says.
func Check(checkpoint []byte, vkey string) (time.Time, error) {
	return log.CheckCosignature(checkpoint, vkey)
}
