package console

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLogKeepsAtMostTwiceItsLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := Open(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if n, err := l.Write(bytes.Repeat([]byte{byte('a' + i%26)}, 30)); n != 30 || err != nil {
			t.Fatalf("Write() = %d, %v", n, err)
		}
	}
	if n, err := l.Write(make([]byte, 1000)); n != 1000 || err != nil {
		t.Errorf("an oversized Write() = %d, %v", n, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + ".1"} {
		fi, err := os.Stat(p)
		if err != nil || fi.Size() > 100 {
			t.Errorf("%s has %d bytes, %v, want at most 100", filepath.Base(p), fi.Size(), err)
		}
	}
	if l, err = Open(path, 100); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.size != 100 {
		t.Errorf("a reopened log starts at %d, want 100", l.size)
	}
}

func TestFollowCopiesAcrossRotationsUntilTheWriterEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := Open(path, 64)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var want, got bytes.Buffer
	write := func(s string) {
		want.WriteString(s)
		if _, err := l.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.Repeat("1", 40))
	write(strings.Repeat("2", 40)) // rotates
	round := 0
	more := func() bool {
		round++
		if round == 2 {
			write(strings.Repeat("3", 40)) // rotates while it is followed
		}
		return round < 4
	}
	if err := Follow(t.Context(), path, &got, more); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), got.String()); diff != "" {
		t.Errorf("followed (-want +got):\n%s", diff)
	}
	got.Reset()
	if err := Follow(t.Context(), path+"-absent", &got, nil); err != nil || got.Len() != 0 {
		t.Errorf("Follow of an absent log = %v, %d bytes", err, got.Len())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Follow(ctx, path, &got, func() bool { return true }); err != nil {
		t.Errorf("Follow with an ended context = %v", err)
	}
}

func TestLinesSkipsWhatIsNotAStatusLine(t *testing.T) {
	in := strings.Join([]string{
		`{"type":"stage","stage":"mounts","status":"ok","ms":5,"uptime_ms":7,"new_key":1}`,
		`{"type":"stage","type":"state"}`, // duplicate key
		`not json`,
		`{"stage":"x"}`, // no type
		``,
		strings.Repeat("x", MaxLine+10),
		`{"type":"state","state":"halted","faults":[{"code":"a.b","message":"m"}],"uptime_ms":9}`, // no newline at the end
	}, "\n")
	var got []string
	bad := 0
	if err := Lines(strings.NewReader(in), func(l *Line) { got = append(got, l.Type+":"+l.Stage+l.State) }, func(error) { bad++ }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"stage:mounts", "state:halted"}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if bad != 4 {
		t.Errorf("%d bad lines, want 4", bad)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`{"type":"stage","stage":"mounts","status":"ok","ms":5,"uptime_ms":7}`))
	f.Add([]byte(`{"type":"state","state":"halted","faults":[{"code":"a.b"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLine(b)
		if err == nil && (l.Type == "" || bytes.IndexByte(l.Raw, 0) >= 0) {
			t.Errorf("ParseLine(%q) = %+v", b, l)
		}
	})
}
