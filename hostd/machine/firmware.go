package machine

import (
	"cocoon/hostd/spec"
	"cocoon/internal/toolstree"
)

// Firmware returns the firmware of the tools tree for a kind of machine. An
// SEV-SNP guest needs the build that checks what the host gives it to boot
// against the hashes in the launch digest; the others measure it themselves.
func Firmware(t toolstree.Tree, tee string) string {
	if tee == spec.TEESNP {
		return t.SEVOVMF()
	}
	return t.OVMF()
}
