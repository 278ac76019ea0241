package worker

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"cocoon/enclave/pack"
	"cocoon/enclave/status"
)

func TestTheModelsLoadingIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var port bytes.Buffer
		rep := status.New(status.Options{Clock: time.Now, Uptime: func() time.Duration { return 0 }, Console: io.Discard})
		rep.Attach(&port)
		w := New(rep, slog.New(slog.DiscardHandler))
		w.loading = time.Now()
		end := w.watchLoad(context.Background(), fstest.MapFS{"class/block/dm-1/stat": {Data: []byte("1 0 8 0 0 0 0 0 0 0 0")}}, pack.Mounted{Device: "/dev/dm-1", Bytes: 4096})
		time.Sleep(2*loadEvery + loadEvery/2)
		end()
		rep.Flush(time.Minute)
		lines := strings.Split(strings.TrimSpace(port.String()), "\n")
		if len(lines) != 3 {
			t.Fatalf("%d reports in two periods and a half, want 3:\n%s", len(lines), port.String())
		}
		last, err := status.Parse([]byte(lines[2]))
		if err != nil {
			t.Fatal(err)
		}
		if want := (status.Progress{What: "model", DoneBytes: 4096, TotalBytes: 4096, BytesPerSecond: 1638, Final: true}); *last.Progress != want {
			t.Errorf("the last report is %+v, want %+v", *last.Progress, want)
		}
	})
}
