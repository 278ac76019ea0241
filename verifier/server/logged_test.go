package server

import (
	"testing"
	"time"

	"cocoon/verifier/journal"
)

// TestAProofIsWaitedForAsLongAsItTakes holds the times together that the service
// has: who asks for a proof right after the verdict has it from the same request,
// two seconds later at the latest, where disk and witnesses answer.
func TestAProofIsWaitedForAsLongAsItTakes(t *testing.T) {
	if proofWait > 2*time.Second {
		t.Errorf("a proof is waited for %s", proofWait)
	}
	// The rest is for disk, storage and witnesses.
	if most := journal.PublishedWithin + proofPoll; most > proofWait-500*time.Millisecond {
		t.Errorf("a checkpoint covers a verdict after %s and is looked for each %s: too late for %s", journal.PublishedWithin, proofPoll, proofWait)
	}
}
