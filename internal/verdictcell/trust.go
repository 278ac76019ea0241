package verdictcell

import "fmt"

// TrustClass says what kind of evidence a verdict rests on. The numbers are
// part of the cell and of the registry's bit mask; the names are the ones that
// policies and verdicts use.
type TrustClass uint8

// Trust classes. VTPM is for development: measured boot in a software TPM,
// without confidentiality (DESIGN section 2).
const (
	VTPM  TrustClass = 1
	TDX   TrustClass = 2
	SNP   TrustClass = 3
	SGX   TrustClass = 4
	AzTDX TrustClass = 5
	AzSNP TrustClass = 6
)

var trustNames = map[TrustClass]string{
	VTPM: "vtpm", TDX: "tdx", SNP: "snp", SGX: "sgx", AzTDX: "az-tdx", AzSNP: "az-snp",
}

// String returns the name, or the number of an unknown class.
func (t TrustClass) String() string {
	if name, ok := trustNames[t]; ok {
		return name
	}
	return fmt.Sprintf("class-%d", uint8(t))
}

// Known reports whether the class has a name.
func (t TrustClass) Known() bool {
	_, ok := trustNames[t]
	return ok
}

// Bit returns the class's bit in the registry's mask of accepted classes; 0
// for a class that the mask has no bit for.
func (t TrustClass) Bit() uint32 {
	if t > 31 {
		return 0
	}
	return 1 << t
}

// ParseTrustClass returns the class of a name.
func ParseTrustClass(name string) (TrustClass, error) {
	for t, n := range trustNames {
		if n == name {
			return t, nil
		}
	}
	return 0, fmt.Errorf("unknown trust class %q", name)
}

// Classes returns the classes of a mask, in ascending order.
func Classes(mask uint32) []TrustClass {
	var out []TrustClass
	for t := TrustClass(0); t < 32; t++ {
		if mask&t.Bit() != 0 {
			out = append(out, t)
		}
	}
	return out
}
