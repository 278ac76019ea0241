package worker

import (
	"context"

	"cocoon/enclave/serve"
	"cocoon/internal/fault"
)

// openLedger returns the ledger of the config's registry, or nil where the
// config names none.
func (w *Worker) openLedger(context.Context) (serve.Ledger, error) {
	if w.config.Registry == "" {
		return nil, nil
	}
	return nil, fault.New(fault.ExitNotReady, "ledger.unsupported", "use an image with ledger support", "opening ledger %s", w.config.Registry)
}
