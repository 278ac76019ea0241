package machine

import (
	"testing"

	"cocoon/hostd/spec"
	"cocoon/internal/toolstree"
)

func TestOnlySNPGuestsBootTheFirmwareThatChecksHashes(t *testing.T) {
	tree := toolstree.Tree{Dir: "/tools"}
	for tee, want := range map[string]string{
		spec.TEEVTPM: "/tools/usr/share/ovmf/OVMF.fd",
		spec.TEETDX:  "/tools/usr/share/ovmf/OVMF.fd",
		spec.TEESNP:  "/tools/usr/share/ovmf/OVMF.amdsev.fd",
	} {
		if got := Firmware(tree, tee); got != want {
			t.Errorf("%s: %s, want %s", tee, got, want)
		}
	}
}
