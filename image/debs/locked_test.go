package debs

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/image/lock"
)

func needDpkg(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("dpkg compares versions and is not here")
	}
}

func lockedArchive(t *testing.T, offered string, records map[string]Deb) *Archive {
	t.Helper()
	return &Archive{
		opts: Options{Cache: t.TempDir(), Log: io.Discard, Lock: lock.Lock{Release: "trixie"}, Locked: lock.Packages{Packages: []lock.Locked{
			{Set: lock.SetRoot, Name: "ovmf", Version: "2026.08-2", Arch: "all", SHA256: sumA}}}},
		offered: map[string]string{"ovmf": offered}, records: records,
	}
}

func TestALockedPackageIsTakenOnlyWithItsHash(t *testing.T) {
	const line = " ovmf | 2026.08-2 | http://m/debian "
	exact := map[string]Deb{"ovmf=2026.08-2": {Name: "ovmf", Version: "2026.08-2", SHA256: sumA, Size: 5}}
	other := map[string]Deb{"ovmf=2026.08-2": {Name: "ovmf", Version: "2026.08-2", SHA256: sumB, Size: 5}}
	want := Deb{Name: "ovmf", Version: "2026.08-2", Arch: "all", SHA256: sumA, Source: FromLock, Pinned: "2026.08-2"}
	sized := want
	sized.Size = 5
	for _, tt := range []struct {
		name, offered string
		records       map[string]Deb
		cached        bool
		want          []Deb
	}{
		{"the release offers it", line + "trixie/main amd64 Packages\n", exact, false, []Deb{sized}},
		{"its security updates offer it", line + "trixie-security/main amd64 Packages\n", exact, false, []Deb{sized}},
		{"only another suite offers it", line + "forky/main amd64 Packages\n", exact, false, nil},
		{"the version has another hash", line + "trixie/main amd64 Packages\n", other, false, nil},
		{"nobody offers it", "", nil, false, nil},
		{"the cache still has it", "", nil, true, []Deb{want}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := lockedArchive(t, tt.offered, tt.records)
			if tt.cached {
				buildDeb(t, filepath.Join(a.opts.Cache, sumA+".deb"))
			}
			if diff := cmp.Diff(tt.want, a.locked(lock.SetRoot, a.release())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestALockedVersionIsTheFloorOfItsReplacement(t *testing.T) {
	needDpkg(t)
	a := lockedArchive(t, "", nil)
	newer := []Deb{{Name: "ovmf", Version: "2026.08-10", Source: FromRelease}, {Name: "added", Version: "1", Source: FromRelease}}
	if err := a.checkFloors(context.Background(), lock.SetRoot, newer); err != nil {
		t.Fatal(err)
	}
	if newer[0].Source != FromNewer || newer[0].Pinned != "2026.08-2" || newer[1].Source != FromRelease {
		t.Errorf("got %+v", newer)
	}
	older := []Deb{{Name: "ovmf", Version: "2026.05-1", Source: FromRelease}}
	if err := a.checkFloors(context.Background(), lock.SetRoot, older); !errors.Is(err, ErrBelowFloor) {
		t.Errorf("an older version: %v", err)
	}
}

func TestALockedSetIsTakenWholeFromItsSuite(t *testing.T) {
	a := lockedArchive(t, " ovmf | 2026.08-2 | http://m/debian forky/main amd64 Packages\n",
		map[string]Deb{"ovmf=2026.08-2": {Name: "ovmf", Version: "2026.08-2", SHA256: sumA, Size: 5}})
	want := []Deb{{Name: "ovmf", Version: "2026.08-2", Arch: "all", SHA256: sumA, Size: 5, Source: FromLock, Pinned: "2026.08-2"}}
	if diff := cmp.Diff(want, a.LockedFrom("forky", lock.SetRoot)); diff != "" {
		t.Error(diff)
	}
	if got := a.LockedFrom("trixie", lock.SetRoot); got != nil {
		t.Errorf("another suite's: %+v", got)
	}
	a.opts.Locked.Packages = append(a.opts.Locked.Packages, lock.Locked{Set: lock.SetRoot, Name: "gone", Version: "1", Arch: "all", SHA256: sumB})
	if got := a.LockedFrom("forky", lock.SetRoot); got != nil {
		t.Errorf("a part of the set: %+v", got)
	}
}

func TestASetOfOtherNamesIsNotOlderThanTheLocked(t *testing.T) {
	needDpkg(t)
	a := lockedArchive(t, "", nil)
	for version, ok := range map[string]bool{"2026.05-1": false, "2026.08-2": true, "2026.08-10": true} {
		err := a.CheckSet(context.Background(), lock.SetRoot, []Deb{{Name: "ovmf-" + version, Version: version}})
		if errors.Is(err, ErrBelowFloor) == ok || (err == nil) != ok {
			t.Errorf("%s: %v", version, err)
		}
	}
	again := []Deb{{Name: "ovmf", Version: "2026.08-3", Source: FromRelease}}
	if err := a.CheckSet(context.Background(), lock.SetRoot, again); err != nil || again[0].Source != FromNewer {
		t.Errorf("a locked name's newer version: %+v, error %v", again, err)
	}
	if err := a.CheckSet(context.Background(), lock.SetKernel, []Deb{{Name: "linux", Version: "1"}}); err != nil {
		t.Errorf("nothing is locked: %v", err)
	}
}

func TestOnlySourcesOfWantedArchivesAreTaken(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cuda.list":        "deb https://developer.download.NVIDIA.example/debian13 /\n",
		"nvidia.sources":   "Types: deb\n",
		"node.sources":     "Types: deb\n",
		"nvidia.list.save": "deb https://nvidia.example /\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := MachineSources(dir, []string{"nvidia"})
	if err != nil || len(got) != 2 || got["cuda.list"] == "" || got["nvidia.sources"] == "" {
		t.Errorf("got %v, error %v", got, err)
	}
	for _, none := range []struct {
		dir   string
		words []string
	}{{dir, nil}, {filepath.Join(dir, "absent"), []string{"nvidia"}}} {
		if got, err := MachineSources(none.dir, none.words); err != nil || len(got) != 0 {
			t.Errorf("%v: got %v, error %v", none, got, err)
		}
	}
}

func TestMissingKnowsSuitesAndFloors(t *testing.T) {
	needDpkg(t)
	offered := map[string]string{
		"kernel": " kernel | 6.12 | http://m/debian trixie/main amd64 Packages\n kernel | 6.18 | http://m/debian trixie-backports/main amd64 Packages\n",
		"driver": " driver | 550.1 | http://m/debian trixie/contrib amd64 Packages\n driver | 600 | http://m/debian forky/contrib amd64 Packages\n",
	}
	got := missing(context.Background(), []Wanted{
		{Name: "kernel", Suite: "trixie-backports", Floor: "6.16"},
		{Name: "kernel", Suite: "trixie", Floor: "6.16"},
		{Name: "driver", Floor: "570"},
		{Name: "driver"},
		{Name: "toolkit"},
	}, offered, []string{"trixie-backports", "forky"})
	want := []Wanted{
		{Name: "kernel", Suite: "trixie", Floor: "6.16", Offered: "6.12"},
		{Name: "driver", Floor: "570", Offered: "550.1"},
		{Name: "toolkit"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
