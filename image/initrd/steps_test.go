package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseListReadsRequiredAndOptionalModules(t *testing.T) {
	got, err := parseList("dm_mod.ko\n?tdx_guest.ko\n?softdog.ko a=1 b=2\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []module{{file: "dm_mod.ko"}, {file: "tdx_guest.ko", optional: true}, {file: "softdog.ko", args: "a=1 b=2", optional: true}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(module{})); diff != "" {
		t.Error(diff)
	}
}

func TestWhatTheRootFileSystemNeedsEndsWithTheLastRequiredModule(t *testing.T) {
	tests := []struct {
		name, list     string
		needed, others []string
	}{
		{"an optional one before a required one loads with it", "?sha256.ko\ndm_verity.ko\n?tsm.ko\n?softdog.ko\n",
			[]string{"sha256.ko", "dm_verity.ko"}, []string{"tsm.ko", "softdog.ko"}},
		{"all are required", "dm_mod.ko\nerofs.ko\n", []string{"dm_mod.ko", "erofs.ko"}, nil},
		{"none is required", "?tsm.ko\n", nil, []string{"tsm.ko"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, listFile), []byte(tt.list), 0o400); err != nil {
				t.Fatal(err)
			}
			needed, others, err := readModules(dir)
			if err != nil {
				t.Fatal(err)
			}
			names := func(list []module) (out []string) {
				for _, m := range list {
					out = append(out, m.file)
				}
				return out
			}
			if diff := cmp.Diff([][]string{tt.needed, tt.others}, [][]string{names(needed), names(others)}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPrefetchReadsAheadAndLeavesWhatItCannotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, make([]byte, 300<<10), 0o700); err != nil {
		t.Fatal(err)
	}
	prefetch(path)
	if got, err := os.ReadFile(path); err != nil || len(got) != 300<<10 {
		t.Errorf("the program has %d bytes afterwards, error %v", len(got), err)
	}
	prefetch(path + "-absent") // no panic: the start is what says so
}

func TestParseListRefusesWhatIsNoFileName(t *testing.T) {
	for _, text := range []string{"", "\n", "?\n", "a.ko\n\nb.ko\n", "../init\n", "/etc/x\n", "..\n", ".hidden\n", " a=1\n", "? a=1\n"} {
		if _, err := parseList(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestOnlyMissingHardwareOfOptionalModulesIsPassedOver(t *testing.T) {
	tests := []struct {
		name string
		m    module
		err  error
		want bool
	}{
		{"a module that is loaded already", module{}, unix.EEXIST, true},
		{"a required module without hardware", module{}, unix.ENODEV, false},
		{"an optional module without hardware", module{optional: true}, unix.ENODEV, true},
		{"an optional module with a bad signature", module{optional: true}, unix.EKEYREJECTED, false},
		{"an optional module of another kernel", module{optional: true}, unix.ENOEXEC, false},
		{"an optional module whose file is gone", module{optional: true}, os.ErrNotExist, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tolerable(tt.m, fmt.Errorf("loading: %w", tt.err)); got != tt.want {
				t.Errorf("tolerable is %v, want %v", got, tt.want)
			}
		})
	}
}

func fakeDisks(t *testing.T, serials map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for disk, serial := range serials {
		if err := os.MkdirAll(filepath.Join(dir, disk), 0o755); err != nil {
			t.Fatal(err)
		}
		if serial != "" {
			if err := os.WriteFile(filepath.Join(dir, disk, "serial"), []byte(serial), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestFindDiskGoesByTheSerialAlone(t *testing.T) {
	dir := fakeDisks(t, map[string]string{"vda": "cocoon-engine", "vdb": "cocoon-root", "sr0": ""})
	got, err := findDisk(dir, rootSerial, 0)
	if err != nil || got != "/dev/vdb" {
		t.Errorf("got %q, error %v", got, err)
	}
}

func TestFindDiskRefusesTwoDisksWithOneSerial(t *testing.T) {
	dir := fakeDisks(t, map[string]string{"vda": "cocoon-root", "vdb": "cocoon-root"})
	if _, err := findDisk(dir, rootSerial, time.Minute); err == nil || !strings.Contains(err.Error(), "2 disks") {
		t.Errorf("got error %v", err)
	}
}

func TestFindDiskGivesUp(t *testing.T) {
	dir := fakeDisks(t, map[string]string{"vda": "cocoon-root-2"})
	if _, err := findDisk(dir, rootSerial, 0); !errors.Is(err, errNoDisk) {
		t.Errorf("got error %v, want %v", err, errNoDisk)
	}
}

func TestReadLimitedRefusesLongFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("12345"), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err := readLimited(path, 5); err != nil || string(b) != "12345" {
		t.Errorf("at the limit: got %q, error %v", b, err)
	}
	if _, err := readLimited(path, 4); err == nil {
		t.Error("a file over the limit was read")
	}
}

func TestBootRefusesToRunOutsideAVM(t *testing.T) {
	var be *bootError
	if err := boot(); !errors.As(err, &be) || be.code != "init.not_pid1" {
		t.Errorf("got %v, want init.not_pid1", err)
	}
}
