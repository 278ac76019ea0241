package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
)

// server serves one file, as tests want it.
type server struct {
	mu      sync.Mutex
	content []byte
	etag    string
	asked   []string // the Range of each request
	// cut ends the first answers after so many bytes; before answers instead.
	cut    []int
	before func(w http.ResponseWriter, r *http.Request) bool
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Header.Get("Range"))
	content, cut, before := s.content, -1, s.before
	if len(s.cut) > 0 {
		cut, s.cut = s.cut[0], s.cut[1:]
	}
	if s.etag != "" {
		w.Header().Set("ETag", s.etag)
	}
	s.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	if cut >= 0 {
		w = &cutter{w, cut}
	}
	http.ServeContent(w, r, "", time.Unix(1764000000, 0), bytes.NewReader(content))
}

// cutter ends a connection after some bytes.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		if _, err := c.ResponseWriter.Write(b[:c.left]); err != nil {
			return 0, err
		}
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

const size = 3<<20 + 17

// serve returns a server of a file, and options to bring it.
func serve(t *testing.T) (*server, Options) {
	t.Helper()
	content := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(content)
	s := &server{content: content, etag: `"one"`}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, Options{URL: h.URL + "/model.img", SHA256: fmt.Sprintf("%x", sha256.Sum256(content)), Path: filepath.Join(t.TempDir(), "packs", "model.img"), HTTP: h.Client(), Pause: time.Millisecond}
}

// whole checks that exactly the file is there.
func whole(t *testing.T, o Options, want []byte) {
	t.Helper()
	if b, err := os.ReadFile(o.Path); err != nil || !bytes.Equal(b, want) {
		t.Errorf("the file has %d bytes, %v", len(b), err)
	}
	entries, err := os.ReadDir(filepath.Dir(o.Path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the file there is %v, %v", entries, err)
	}
}

func none(t *testing.T, o Options) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(o.Path))
	if err != nil || len(entries) != 0 {
		t.Errorf("there is %v, %v", entries, err)
	}
}

func TestAFileIsBroughtOnce(t *testing.T) {
	s, o := serve(t)
	o.Size = size
	var last Progress
	o.Report = func(p Progress) { last = p }
	for range 2 {
		if err := File(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if last != (Progress{Name: "model.img", Phase: Done, Bytes: size, Total: size}) {
			t.Errorf("the last progress is %+v", last)
		}
	}
	whole(t, o, s.content)
	if len(s.asked) != 1 {
		t.Errorf("asked for %q", s.asked)
	}
	// Another content under the path is replaced.
	if err := os.WriteFile(o.Path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := File(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	whole(t, o, s.content)
}

func TestATransferGoesOnWhereItWasCut(t *testing.T) {
	s, o := serve(t)
	s.cut = []int{1 << 20, 1 << 20}
	if err := File(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	whole(t, o, s.content)
	if len(s.asked) != 3 || s.asked[0] != "" || s.asked[1] != "bytes=1048576-" || s.asked[2] != "bytes=2097152-" {
		t.Errorf("asked for %q", s.asked)
	}
}

// interrupted brings the file up to some bytes and gives up, as a process does
// that is killed.
func interrupted(t *testing.T, s *server, o Options, at int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s.mu.Lock()
	s.cut = []int{at}
	s.mu.Unlock()
	o.Report = func(p Progress) {
		if p.Phase == Waiting {
			cancel()
		}
	}
	if err := File(ctx, o); !fault.Has(err, "fetch.interrupted") || fault.ExitCode(err) != fault.ExitNetwork {
		t.Fatalf("File() = %v", err)
	}
	if _, err := os.Stat(o.Path); !os.IsNotExist(err) {
		t.Fatalf("half a file has the name of a whole one: %v", err)
	}
	s.mu.Lock()
	s.asked = nil
	s.mu.Unlock()
}

func TestWhatWasInterruptedIsGoneOnWith(t *testing.T) {
	for _, tc := range []struct {
		name   string
		at     int
		change func(s *server, o *Options)
		asked  string // the ranges of the next time
	}{
		{"the same file", 1 << 20, nil, "bytes=1048576-"},
		{"nothing had come", 0, nil, ""},
		{"a server without entity tags", 1 << 20, func(s *server, _ *Options) { s.etag = "" }, "bytes=1048576-"},
		{"a weak entity tag", 1 << 20, func(s *server, _ *Options) { s.etag = `W/"one"` }, "bytes=1048576-"},
		{"another entity tag: from the beginning", 1 << 20, func(s *server, _ *Options) { s.etag = `"two"` }, "bytes=1048576-"},
		{"another address: from the beginning", 1 << 20, func(_ *server, o *Options) { o.URL += "?mirror=2" }, ""},
		{"a byte of what was there is damaged: once more", 1 << 20, func(_ *server, o *Options) {
			f, err := os.OpenFile(o.Path+partSuffix, os.O_RDWR, 0)
			if err == nil {
				_, err = f.WriteAt([]byte{0, 0}, 5000)
				f.Close()
			}
			if err != nil {
				panic(err)
			}
		}, "bytes=1048576-|"},
		{"the note is damaged: from the beginning", 1 << 20, func(_ *server, o *Options) {
			if err := os.WriteFile(o.Path+noteSuffix, []byte("{"), 0o600); err != nil {
				panic(err)
			}
		}, ""},
		{"more is there than the file has: from the beginning", 1 << 20, func(_ *server, o *Options) {
			if err := os.Truncate(o.Path+partSuffix, size+5); err != nil {
				panic(err)
			}
		}, ""},
		{"a server that sends another range", 1 << 20, func(s *server, _ *Options) {
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") == "" {
					return false
				}
				w.Header().Set("Content-Range", "bytes 0-99/100")
				w.WriteHeader(http.StatusPartialContent)
				return true
			}
		}, "bytes=1048576-|"},
		{"a server that has no ranges", 1 << 20, func(s *server, _ *Options) {
			s.before = func(w http.ResponseWriter, _ *http.Request) bool {
				_, _ = w.Write(s.content)
				return true
			}
		}, "bytes=1048576-"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, o := serve(t)
			interrupted(t, s, o, tc.at)
			if tc.change != nil {
				tc.change(s, &o)
			}
			if err := File(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			whole(t, o, s.content)
			if got := strings.Join(s.asked, "|"); got != tc.asked {
				t.Errorf("asked for %q, want %q", got, tc.asked)
			}
		})
	}
}

func TestWhatIsNotTheFileIsRefusedAndRemoved(t *testing.T) {
	for _, tc := range []struct {
		name, code string
		exit       int
		change     func(s *server, o *Options)
	}{
		{"another hash", "fetch.hash", fault.ExitRefused, func(s *server, _ *Options) { s.content[7] ^= 1 }},
		{"another size", "fetch.size", fault.ExitRefused, func(_ *server, o *Options) { o.Size = size - 1 }},
		{"more than its size, without saying so", "fetch.size", fault.ExitRefused, func(s *server, o *Options) {
			o.Size = size - 1
			s.before = func(w http.ResponseWriter, _ *http.Request) bool {
				_ = http.NewResponseController(w).Flush()
				_, _ = w.Write(s.content)
				return true
			}
		}},
		{"nothing at the address", "fetch.status", fault.ExitNetwork, func(s *server, _ *Options) {
			s.before = func(w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true }
		}},
		{"an address that is none", "fetch.url", fault.ExitParse, func(_ *server, o *Options) { o.URL = "file:///etc/passwd" }},
		{"a hash that is none", "fetch.hash.parse", fault.ExitParse, func(_ *server, o *Options) { o.SHA256 = "abc" }},
		{"a size beyond all bounds", "fetch.too_large", fault.ExitParse, func(_ *server, o *Options) { o.Size = MaxSize + 1 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, o := serve(t)
			if err := os.MkdirAll(filepath.Dir(o.Path), 0o700); err != nil {
				t.Fatal(err)
			}
			tc.change(s, &o)
			if err := File(t.Context(), o); !fault.Has(err, tc.code) || fault.ExitCode(err) != tc.exit {
				t.Errorf("File() = %v, want %s", err, tc.code)
			}
			if _, err := os.Stat(o.Path); !os.IsNotExist(err) {
				t.Errorf("it is there: %v", err)
			}
			if strings.HasPrefix(tc.code, "fetch.hash") || strings.Contains(tc.name, "without saying") {
				none(t, o)
			}
		})
	}
}

func TestAServerThatFailsIsAskedAgain(t *testing.T) {
	s, o := serve(t)
	n := 0
	s.before = func(w http.ResponseWriter, _ *http.Request) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if n++; n <= attempts-1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	if err := File(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	whole(t, o, s.content)
	n = -1000
	o.Path += "2"
	if err := File(t.Context(), o); !fault.Has(err, "fetch.network") || fault.ExitCode(err) != fault.ExitNetwork {
		t.Errorf("File() = %v", err)
	}
}

func TestAServerThatFallsSilentIsLeft(t *testing.T) {
	s, o := serve(t)
	o.Stall = time.Second
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") != "" {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		w.Header().Set("Last-Modified", time.Unix(1764000000, 0).UTC().Format(http.TimeFormat))
		_, _ = w.Write(s.content[:4096])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	if err := File(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	whole(t, o, s.content)
}

func TestTwoDoNotBringOneFile(t *testing.T) {
	s, o := serve(t)
	var second error
	o.Report = func(p Progress) {
		if p.Phase == Waiting && second == nil {
			o2 := o
			o2.Report = nil
			second = File(t.Context(), o2)
		}
	}
	s.cut = []int{100}
	if err := File(t.Context(), o); err != nil || !fault.Has(second, "fetch.busy") {
		t.Errorf("File() = %v, the second %v", err, second)
	}
}

func TestAFullDiskIsSaidAndWhatCameIsKept(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	s, o := serve(t)
	dir := filepath.Dir(o.Path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mounting a small disk: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := File(t.Context(), o); !fault.Has(err, "fetch.disk.full") || len(s.asked) != 1 {
		t.Errorf("where it is seen beforehand: %v", err)
	}
	s.before = func(w http.ResponseWriter, _ *http.Request) bool {
		_ = http.NewResponseController(w).Flush() // without a length
		_, _ = w.Write(s.content)
		return true
	}
	if err := File(t.Context(), o); !fault.Has(err, "fetch.disk.full") || fault.ExitCode(err) != fault.ExitNotReady {
		t.Errorf("where it is not: %v", err)
	}
	if _, err := os.Stat(o.Path); !os.IsNotExist(err) {
		t.Errorf("a part has the file's name: %v", err)
	}
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	s.before = nil
	if err := File(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	whole(t, o, s.content)
}
