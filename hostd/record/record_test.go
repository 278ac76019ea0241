package record

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"testing"
	"time"

	"cocoon/internal/imagetest"
	"cocoon/measurements/pcr"
)

// extendCmd is a TPM2_PCR_Extend of PCR 5 with SHA-1 of 0x11… and SHA-256 of
// 0x22…, under an empty password.
const extendCmd = "8002" + "00000061" + "00000182" + "00000005" + "00000009" + "400000090000000000" + "00000002" +
	"0004" + "1111111111111111111111111111111111111111" +
	"000b" + "2222222222222222222222222222222222222222222222222222222222222222"

func TestParseExtendReadsTheSHA256BankAndRefusesMalformedCommands(t *testing.T) {
	cmd, err := hex.DecodeString(extendCmd)
	if err != nil {
		t.Fatal(err)
	}
	e, ok, err := ParseExtend(cmd)
	if err != nil || !ok || e.PCR != 5 || e.Digest[0] != 0x22 || e.Digest[31] != 0x22 {
		t.Fatalf("ParseExtend() = %+v, %v, %v", e, ok, err)
	}
	for n := 18; n < len(cmd); n++ {
		if _, _, err := ParseExtend(cmd[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("a command cut to %d bytes: %v, want malformed", n, err)
		}
	}
	if _, _, err := ParseExtend(append(cmd, 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("trailing byte: %v, want malformed", err)
	}
	for what, at := range map[string]int{"register": 12, "authorisation size": 14, "digest count": 27, "algorithm": 31} {
		bad := append([]byte(nil), cmd...)
		bad[at] = 0xff
		if _, _, err := ParseExtend(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("bad %s: %v, want malformed", what, err)
		}
	}
	cmd[9] = 0x44 // another command
	if _, ok, err := ParseExtend(cmd); ok || err != nil {
		t.Errorf("another command: %v, %v, want neither", ok, err)
	}
}

func FuzzParseExtend(f *testing.F) {
	cmd, err := hex.DecodeString(extendCmd)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cmd)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, ok, err := ParseExtend(b)
		if ok && (err != nil || e.PCR < 0 || e.PCR > 23) {
			t.Errorf("ParseExtend() = %+v, %v, %v", e, ok, err)
		}
	})
}

// The recording that comes with the project must be what the pinned firmware
// does here and now.
func TestRecordingOfThePinnedFirmwareEqualsTheCommittedOne(t *testing.T) {
	b := imagetest.Find(t)
	r, err := Run(t.Context(), Options{Firmware: b.Tools.OVMF(), Name: "ovmf", Image: b.Image, Tools: b.Tools,
		Accel: DefaultAccel, Clock: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("pcr 0 %s, pcr 7 %s, unstable %v, %s", r.Firmware.PCR0, r.Firmware.PCR7, r.Unstable, r.QEMUVersion)
	known, err := pcr.Recorded()
	if err != nil {
		t.Fatal(err)
	}
	want, err := known.Find(r.Firmware.SHA256)
	if err != nil {
		t.Fatalf("the tools tree has another firmware than the committed recording: %v", err)
	}
	if want.PCR0 != r.Firmware.PCR0 || want.PCR7 != r.Firmware.PCR7 || want.Cmdline != r.Firmware.Cmdline {
		t.Errorf("recorded %+v, committed %+v", r.Firmware, want)
	}
}
