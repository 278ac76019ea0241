package cpio

import (
	"bytes"
	"errors"
	"testing"
)

func sampleArchive(t testing.TB) []byte {
	t.Helper()
	a := New()
	if err := errors.Join(a.Dir("dev", 0o755), a.Char("dev/console", 0o600, 5, 1), a.File("init", 0o755, []byte("hello"))); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := a.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	got, err := Read(sampleArchive(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0].Name != "dev" || got[1].Name != "dev/console" || got[1].Mode != 0o020600 ||
		got[2].Name != "init" || got[2].Mode != 0o100755 || string(got[2].Data) != "hello" || got[2].MTime != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestReadRefusesCutArchives(t *testing.T) {
	b := sampleArchive(t)
	for n := range len(b) - 4 {
		if _, err := Read(b[:n]); !errors.Is(err, ErrFormat) {
			t.Fatalf("an archive cut to %d bytes: %v", n, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sampleArchive(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := Read(b)
		if err != nil {
			return
		}
		n := 0
		for _, e := range es {
			n += len(e.Data)
		}
		if n > len(b) {
			t.Errorf("%d bytes of data in an archive of %d", n, len(b))
		}
	})
}
