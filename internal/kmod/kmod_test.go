package kmod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseReadsRequiredAndOptionalModules(t *testing.T) {
	want := []Module{{File: "dm_mod.ko"}, {File: "tdx_guest.ko", Optional: true}, {File: "softdog.ko", Args: "a=1 b=2", Optional: true}}
	var text string
	for _, m := range want {
		text += m.Line()
	}
	if text != "dm_mod.ko\n?tdx_guest.ko\n?softdog.ko a=1 b=2\n" {
		t.Errorf("written as %q", text)
	}
	got, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefusesWhatIsNoFileName(t *testing.T) {
	for _, text := range []string{"", "\n", "?\n", "a.ko\n\nb.ko\n", "../init\n", "/etc/x\n", "..\n", ".hidden\n", " a=1\n", "? a=1\n"} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("dm_mod.ko\n?softdog.ko a=1\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := Parse(text)
		if err != nil {
			return
		}
		var again string
		for _, m := range list {
			if filepath.Dir(filepath.Join("/d", m.File)) != "/d" {
				t.Errorf("%q leaves the directory", m.File)
			}
			again += m.Line()
		}
		if got, err := Parse(again); err != nil || !cmp.Equal(got, list) {
			t.Errorf("%q reads as %v, written again as %v, %v", text, list, got, err)
		}
	})
}

func TestOnlyMissingHardwareOfOptionalModulesIsPassedOver(t *testing.T) {
	tests := []struct {
		name string
		m    Module
		err  error
		want bool
	}{
		{"a module that is loaded already", Module{}, unix.EEXIST, true},
		{"a required module without hardware", Module{}, unix.ENODEV, false},
		{"an optional module without hardware", Module{Optional: true}, unix.ENODEV, true},
		{"an optional module with a bad signature", Module{Optional: true}, unix.EKEYREJECTED, false},
		{"an optional module of another kernel", Module{Optional: true}, unix.ENOEXEC, false},
		{"an optional module whose file is gone", Module{Optional: true}, os.ErrNotExist, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tolerable(tt.m, fmt.Errorf("loading: %w", tt.err)); got != tt.want {
				t.Errorf("tolerable is %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLoadSaysWhichListOrModuleIsMissing(t *testing.T) {
	dir := t.TempDir()
	if err := Load(dir, Base); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a list: %v", err)
	}
	for list, want := range map[string]string{
		"?absent.ko\n":                  "loading absent.ko",
		"../x\n":                        "module list line 1",
		strings.Repeat("a", maxList+10): "more than",
	} {
		if err := os.WriteFile(filepath.Join(dir, Base), []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Load(dir, Base); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", list, err, want)
		}
	}
}
