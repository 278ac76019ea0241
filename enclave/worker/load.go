package worker

import (
	"context"
	"io/fs"
	"time"

	"cocoon/enclave/pack"
	"cocoon/enclave/status"
)

// loadEvery is between two reports of how much of the model is loaded.
const loadEvery = time.Second

// watchLoad reports, while an engine starts, how much of the model's pack was
// read and verified, and how fast. What it returns ends it with a last report.
// Nothing depends on it.
func (w *Worker) watchLoad(ctx context.Context, sys fs.FS, model pack.Mounted) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	report := func(final bool) {
		n, err := pack.Read(sys, model)
		if err != nil {
			return
		}
		// From when the pack was mapped: a small one was read whole by then.
		rate := float64(n) / max(time.Since(w.loading).Seconds(), 1e-3)
		w.rep.Report(status.Line{Type: status.TypeProgress, Progress: &status.Progress{
			What: "model", DoneBytes: min(n, model.Bytes), TotalBytes: model.Bytes, BytesPerSecond: uint64(rate), Final: final,
		}})
	}
	go func() {
		defer close(done)
		tick := time.NewTicker(loadEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				report(true)
				return
			case <-tick.C:
				report(false)
			}
		}
	}()
	return func() { cancel(); <-done }
}
