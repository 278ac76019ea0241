package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

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
