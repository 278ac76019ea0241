package tsm_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"

	"cocoon/enclave/tsm"
)

// silent is a kernel whose host answers nothing until it is let.
type silent struct {
	configfsi.Client
	asked  chan struct{}
	answer chan struct{}
}

// MkdirTemp implements configfsi.Client.
func (s *silent) MkdirTemp(string, string) (string, error) {
	s.asked <- struct{}{}
	<-s.answer
	return "", os.ErrNotExist
}

// TestNobodyWaitsForAHostThatIsSilent ends the wait for answers that do not come,
// so often that no more is asked, and has them come then.
func TestNobodyWaitsForAHostThatIsSilent(t *testing.T) {
	s := &silent{asked: make(chan struct{}, 100), answer: make(chan struct{})}
	r := &tsm.Reporter{Client: s, Provider: tsm.ProviderTDX}
	ask := func(ctx context.Context) error {
		t.Helper()
		done := make(chan error, 1)
		go func() {
			_, err := r.Report(ctx, [64]byte{})
			done <- err
		}()
		select {
		case err := <-done:
			return err
		case <-time.After(time.Minute):
			t.Fatal("it waits for the host")
			return nil
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	n := 0
	for ; ; n++ {
		err := ask(ended)
		if errors.Is(err, tsm.ErrService) {
			break
		}
		if !errors.Is(err, context.Canceled) || n > 50 {
			t.Fatalf("request %d: %v", n, err)
		}
	}
	if n == 0 {
		t.Error("the first was refused")
	}
	close(s.answer)
	for range n {
		<-s.asked
	}
	for limit := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		err := ask(t.Context())
		if errors.Is(err, tsm.ErrAbsent) {
			break
		}
		if !errors.Is(err, tsm.ErrService) || time.Now().After(limit) {
			t.Fatalf("once it answers: %v", err)
		}
	}
}
