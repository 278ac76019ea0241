package explain

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"cocoon/image/cpio"
)

var someTime = time.Unix(1767225600, 0)

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func initramfs(t *testing.T, init string, perm uint32) []byte {
	t.Helper()
	a := cpio.New()
	if err := errors.Join(a.Dir("proc", 0o555), a.File("init", perm, []byte(init)), a.File("modules/list", 0o400, []byte("dm_mod.ko\n"))); err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	if _, err := a.WriteTo(&raw); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(raw.Bytes(), nil)
}

func TestEachDifferenceIsNamedDownToTheFile(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		a, b       []byte
		want       []string
	}{
		{"equal files", "initrd", []byte("x"), []byte("x"), nil},
		{"a program in the initrd", "initrd", initramfs(t, "one", 0o755), initramfs(t, "two", 0o755), []string{"initrd: /init: the first difference is at byte 0 of 3"}},
		{"a mode in the initrd", "initrd", initramfs(t, "one", 0o755), initramfs(t, "one", 0o700),
			[]string{"initrd: /init: mode 100755, owner 0:0, time 0 became mode 100700, owner 0:0, time 0"}},
		{"a word of the command line", "cmdline", []byte("quiet a=1"), []byte("quiet a=2 b"), []string{`cmdline: word "a=1" became "a=2"`, `cmdline: word "b" is new`}},
		{"a field of a description", "image.json", []byte(`{"a":[{"b":1}],"c":2}`), []byte(`{"a":[{"b":3}],"d":2}`),
			[]string{"image.json: a[0].b is 1, became 3", "image.json: c is 2, became null", "image.json: d is null, became 2"}},
		{"a longer kernel", "vmlinuz", []byte("abc"), []byte("abcd"), []string{"vmlinuz: 3 bytes became 4, the first difference is at byte 3"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := write(t, t.TempDir(), tt.file, tt.a), write(t, t.TempDir(), tt.file, tt.b)
			got, err := Files(t.Context(), Options{}, a, b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatDoesNotParseIsNamedByItsFirstByte(t *testing.T) {
	for _, name := range []string{"initrd", "uki.efi", "image.json", "vmlinuz"} {
		a, b := write(t, t.TempDir(), name, []byte("xa")), write(t, t.TempDir(), name, []byte("xb"))
		got, err := Files(t.Context(), Options{}, a, b)
		if err != nil || len(got) != 1 || !strings.HasPrefix(got[0], name+": the first difference is at byte 1 of 2") {
			t.Errorf("%s: got %q, error %v", name, got, err)
		}
	}
}

func TestAFileSystemIsComparedFileByFile(t *testing.T) {
	// What stands for unpacking: a disk whose content names the files.
	extract := func(_ context.Context, image, dir string) error {
		doc, err := os.ReadFile(image)
		if err != nil {
			return err
		}
		for _, line := range strings.Split(string(doc), "\n") {
			name, text, _ := strings.Cut(line, "=")
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				return err
			}
		}
		for _, p := range []string{dir, filepath.Join(dir, "usr"), filepath.Join(dir, "usr/bin")} {
			if err := os.Chtimes(p, someTime, someTime); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return filepath.Walk(dir, func(p string, _ os.FileInfo, err error) error {
			return errors.Join(err, os.Chtimes(p, someTime, someTime))
		})
	}
	a := write(t, t.TempDir(), "root.img", []byte("usr/bin/cocoon-enclave=one\nusr/bin/runc=x"))
	b := write(t, t.TempDir(), "root.img", []byte("usr/bin/cocoon-enclave=one.\nusr/bin/sh=x"))
	got, err := Files(t.Context(), Options{Extract: extract, Temp: t.TempDir()}, a, b)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"root.img: /usr/bin/cocoon-enclave: 3 bytes became 4, the first difference is at byte 3",
		"root.img: /usr/bin/runc is gone",
		"root.img: /usr/bin/sh is new",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
