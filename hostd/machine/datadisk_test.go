package machine

import (
	"os"
	"path/filepath"
	"testing"

	"cocoon/internal/fault"
)

func TestADataDiskIsMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "data.img")
	if err := makeDataDisk(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Size() != 1<<20 || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%+v, %v", fi, err)
	}
	if err := os.WriteFile(path, []byte("the guest's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := makeDataDisk(path, 2<<20); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "the guest's" {
		t.Errorf("the disk was made anew: %q, %v", b, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

func TestADataDiskThatCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	if err := makeDataDisk(filepath.Join(dir, "none", "data.img"), 1<<20); !fault.Has(err, "vm.data_disk.failed") {
		t.Errorf("no directory: got %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	if err := makeDataDisk(link, 1<<20); !fault.Has(err, "vm.data_disk.irregular") {
		t.Errorf("a link: got %v", err)
	}
	if err := makeDataDisk(filepath.Join(dir, "huge"), 1<<62); !fault.Has(err, "vm.data_disk.failed") {
		t.Errorf("no space: got %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}
