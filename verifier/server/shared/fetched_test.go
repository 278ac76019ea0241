package shared_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"cocoon/verifier/server/shared"
)

// keepsFetched looks that what was fetched is kept, and not all of it.
func keepsFetched(t *testing.T, s *shared.Store) {
	t.Helper()
	f, ctx := shared.Fetched{Store: s}, t.Context()
	if b, err := f.Get(ctx, "none", 10); len(b) != 0 || err != nil {
		t.Errorf("what nobody put: %q, %v", b, err)
	}
	if err := f.Put(ctx, "one", []byte("0123456789"), time.Minute); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int]string{10: "0123456789", 4: "01234"} {
		if b, err := f.Get(ctx, "one", limit); err != nil || string(b) != want {
			t.Errorf("at most %d bytes: %q, %v", limit, b, err)
		}
	}
	if err := f.Put(ctx, "ended", []byte("x"), 0); err != nil {
		t.Error(err)
	}
	if b, _ := f.Get(ctx, "ended", 10); len(b) != 0 {
		t.Error("what had ended is kept")
	}
	if err := f.Put(ctx, "large", make([]byte, 4<<20+1), time.Minute); err == nil {
		t.Error("what is too large is kept")
	}
	// Four MiB each: beyond MaxFetchedBytes the oldest goes.
	large := bytes.Repeat([]byte{1}, 4<<20)
	for i := range shared.MaxFetchedBytes / len(large) {
		if err := f.Put(ctx, fmt.Sprint("large", i), large, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"one": false, "large0": true, "large15": true} {
		if b, err := f.Get(ctx, name, 0); err != nil || (len(b) > 0) != want {
			t.Errorf("%s is kept: %v, %v", name, len(b) > 0, err)
		}
	}
}

func TestWhatWasFetchedIsKeptForAWhile(t *testing.T) {
	f := newFake(t)
	s := open(t, f, shared.Options{})
	keepsFetched(t, s)
	f.FastForward(time.Minute)
	if b, err := (shared.Fetched{Store: s}).Get(t.Context(), "large15", 0); len(b) != 0 || err != nil {
		t.Errorf("after its end: %v, %v", b, err)
	}
	f.Close()
	if _, err := (shared.Fetched{Store: s}).Get(t.Context(), "one", 10); err == nil {
		t.Error("a store that is away has something")
	}
}
