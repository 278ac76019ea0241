package snp

import (
	"fmt"

	"cocoon/measurements/digest"
)

// Match returns the number of vCPUs, 1 to most, with which a guest of this
// shape has the launch digest; 0 if there is none. shape.VCPUs is not read.
// It takes one hash a vCPU: every vCPU but the first starts alike.
func Match(f Firmware, kernel *Kernel, shape Shape, most int, want digest.SHA384) (int, error) {
	shape.VCPUs = most
	if err := f.Validate(); err != nil {
		return 0, fmt.Errorf("matching launch digest: %w", err)
	}
	if err := shape.Validate(); err != nil {
		return 0, fmt.Errorf("matching launch digest: %w", err)
	}
	if kernel != nil && !f.MeasuresKernel() {
		return 0, fmt.Errorf("matching launch digest: %w", ErrNoHashes)
	}
	l := launch{f.Digest}
	if err := l.sections(&f, kernel, shape.VMM); err != nil {
		return 0, fmt.Errorf("matching launch digest: %w", err)
	}
	page := digest.Sum384(vmsa(bspEIP, shape))
	for n := 1; n <= most; n++ {
		if n == 2 {
			if f.ResetEIP == 0 {
				return 0, nil // this firmware starts one vCPU only
			}
			page = digest.Sum384(vmsa(f.ResetEIP, shape))
		}
		if l.update(pageVMSA, vmsaGPA, page); l.ld == want {
			return n, nil
		}
	}
	return 0, nil
}
