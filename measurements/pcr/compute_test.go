package pcr

import (
	"errors"
	"os"
	"testing"

	"cocoon/internal/toolstree"
	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/launch"
)

// TestTheRecordingIsWhatTheFileGives computes PCR 0 and 7 of the tools tree's
// firmware and holds them against the committed recording.
func TestTheRecordingIsWhatTheFileGives(t *testing.T) {
	tools, err := toolstree.Find()
	if err != nil {
		t.Skipf("the tools tree is absent: %v", err)
	}
	b, err := os.ReadFile(tools.OVMF())
	if err != nil {
		t.Skip(err)
	}
	rec, err := Recorded()
	if err != nil {
		t.Fatal(err)
	}
	want, err := rec.Find(digest.Sum256(b))
	if errors.Is(err, ErrUnknownFirmware) {
		t.Skip(err)
	}
	parts, err := launch.ReadFirmware("OVMF.fd", b)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Compute(parts)
	if err != nil || got.PCR0 != want.PCR0 || got.PCR7 != want.PCR7 || got.Cmdline != want.Cmdline || got.Provenance != ProvenanceComputed {
		t.Errorf("computed %+v, recorded %+v: %v", got, want, err)
	}
}

func TestFirmwareThatDoesNotSayIsNotComputed(t *testing.T) {
	volume := *boot.Of([]byte("volume"))
	full := launch.Firmware{Name: "f", SHA256: digest.Sum256(nil), Cmdline: CmdlineInitrdFirst,
		TPM: &launch.FirmwareTPM{Version: "2026.08", Volumes: []boot.Digests{volume}}}
	if _, err := Compute(&full); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*launch.Firmware){
		"no core": func(f *launch.Firmware) { f.TPM = nil },
		"enrolled keys": func(f *launch.Firmware) {
			f.TPM = &launch.FirmwareTPM{Version: "1", Volumes: f.TPM.Volumes, KeysEnrolled: true}
		},
		"an old version": func(f *launch.Firmware) {
			f.TPM = &launch.FirmwareTPM{Version: "2025.02-8+deb13u1", Volumes: f.TPM.Volumes}
		},
		"unknown version": func(f *launch.Firmware) { f.Cmdline = "" },
	} {
		f := full
		change(&f)
		if v, err := Compute(&f); !errors.Is(err, ErrNotComputed) {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}

// TestIMAsRegisterFollowsFromAllTen changes each register in turn.
func TestIMAsRegisterFollowsFromAllTen(t *testing.T) {
	v := Values{}
	for n := range IMA {
		v[n] = digest.SHA256{byte(n)}
	}
	base, err := PredictIMA(v)
	if err != nil {
		t.Fatal(err)
	}
	for n := range IMA {
		old := v[n]
		v[n] = digest.SHA256{0xff}
		if got, err := PredictIMA(v); err != nil || got == base {
			t.Errorf("PCR %d does not reach PCR 10: %v", n, err)
		}
		delete(v, n)
		if _, err := PredictIMA(v); !errors.Is(err, ErrIMA) {
			t.Errorf("without PCR %d: %v", n, err)
		}
		v[n] = old
	}
}
