package modules

import (
	"strings"
	"testing"
)

const dep = `kernel/drivers/md/dm-mod.ko.xz:
kernel/drivers/md/dm-bufio.ko.xz: kernel/drivers/md/dm-mod.ko.xz
kernel/drivers/md/dm-verity.ko.xz: kernel/lib/reed_solomon.ko.xz kernel/drivers/md/dm-bufio.ko.xz kernel/drivers/md/dm-mod.ko.xz
kernel/lib/reed_solomon.ko.xz:
kernel/a.ko: kernel/b.ko
kernel/b.ko: kernel/a.ko
kernel/c.ko: kernel/gone.ko
`

func TestOrderPutsEveryModuleAfterItsNeeds(t *testing.T) {
	x, err := Parse(dep, "kernel/drivers/virtio/virtio_pci.ko\n")
	if err != nil {
		t.Fatal(err)
	}
	got, err := x.Order([]string{"virtio_pci", "dm-verity", "dm_mod"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range got {
		names = append(names, Name(f))
	}
	if want := "reed_solomon dm_mod dm_bufio dm_verity"; strings.Join(names, " ") != want {
		t.Errorf("order is %q, want %q", names, want)
	}
}

func TestOrderRefusesWhatTheKernelCannotLoad(t *testing.T) {
	x, err := Parse(dep, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "needs itself", "c": "no line for", "virtio_pci": "no module"} {
		if _, err := x.Order([]string{name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, want)
		}
	}
}

func TestARenamedModuleIsFoundUnderTheNameThatTheKernelHas(t *testing.T) {
	x, err := Parse("k/tsm_report.ko.xz:\n", "kernel/dm-mod.ko")
	if err != nil {
		t.Fatal(err)
	}
	for want, n := range map[string]int{"tsm|tsm_report": 1, "tsm-report|tsm": 1, "dm_mod|device_mapper": 0} {
		if files, err := x.Order([]string{want}); err != nil || len(files) != n {
			t.Errorf("%s: %q, error %v", want, files, err)
		}
	}
	if _, err := x.Order([]string{"tsm|tsm_mr"}); err == nil || !strings.Contains(err.Error(), "no module tsm|tsm_mr") {
		t.Errorf("neither name is there: %v", err)
	}
}

func TestParseRefusesBrokenIndexes(t *testing.T) {
	for name, text := range map[string]string{"no colon": "kernel/a.ko\n", "one name twice": "x/a-b.ko:\ny/a_b.ko.xz:\n", "no file": ": kernel/a.ko\n"} {
		if _, err := Parse(text, ""); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(dep, "kernel/v.ko", "dm-verity")
	f.Fuzz(func(t *testing.T, dep, builtin, want string) {
		x, err := Parse(dep, builtin)
		if err != nil {
			return
		}
		files, err := x.Order([]string{want})
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, file := range files {
			for _, n := range x.needs[file] {
				if !seen[n] {
					t.Fatalf("%s stands before %s, which it needs", file, n)
				}
			}
			seen[file] = true
		}
	})
}
