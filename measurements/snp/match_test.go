package snp

import (
	"errors"
	"testing"

	"cocoon/measurements/digest"
	"cocoon/measurements/tdvf"
)

// TestMatchFindsWhatMeasureComputes asks for digests that Measure, which the
// golden cases check, gave.
func TestMatchFindsWhatMeasureComputes(t *testing.T) {
	f := Firmware{Digest: digest.Sum384([]byte("firmware")), HashGPA: 0x810c00, ResetEIP: 0x80b004, Sections: []tdvf.SEVSection{
		{Type: tdvf.SEVMemory, GPA: 0x800000, Size: 0x9000}, {Type: tdvf.SEVKernelHashes, GPA: 0x810000, Size: 0x1000}}}
	kernel := HashKernel([]byte("kernel"), []byte("initrd"), "quiet")
	shape := Shape{VMM: QEMU, VCPUType: "EPYC-Milan", Features: DefaultFeatures}
	for _, n := range []int{1, 2, 3, 64} {
		s := shape
		s.VCPUs = n
		d, err := Measure(f, kernel, s)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Match(f, kernel, shape, 64, d); err != nil || got != n {
			t.Errorf("%d vCPUs: found %d, %v", n, got, err)
		}
		if got, err := Match(f, kernel, shape, n-1, d); n > 1 && (err != nil || got != 0) {
			t.Errorf("%d vCPUs of %d: found %d, %v", n, n-1, got, err)
		}
		if got, err := Match(f, HashKernel([]byte("kernel"), nil, "quiet"), shape, 64, d); err != nil || got != 0 {
			t.Errorf("%d vCPUs with another initrd: found %d, %v", n, got, err)
		}
	}
	if _, err := Match(Firmware{}, kernel, shape, 1, digest.SHA384{}); !errors.Is(err, ErrNoHashes) {
		t.Errorf("firmware without a table: %v", err)
	}
	if _, err := Match(f, kernel, shape, MaxVCPUs+1, digest.SHA384{}); !errors.Is(err, ErrShape) {
		t.Errorf("too many vCPUs: %v", err)
	}
}
