package sev

import (
	"testing"
	"unsafe"
)

// TestAKeyRequestNamesTheChipsOwnRoot reads the message as the kernel does
// (linux/sev-guest.h, struct snp_derived_key_req).
func TestAKeyRequestNamesTheChipsOwnRoot(t *testing.T) {
	m := KeyRequest{Fields: FieldPolicy | FieldMeasurement | FieldTCB, VMPL: 1, GuestSVN: 7, TCB: 0x0102030405060708}.message()
	got := *(*[32]byte)(unsafe.Pointer(m))
	want := [32]byte{2, 0, 0, 0, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1}
	if got != want {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}
