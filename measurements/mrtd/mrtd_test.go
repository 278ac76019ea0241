package mrtd

import (
	"encoding/binary"
	"errors"
	"testing"

	"cocoon/measurements/tdvf"
)

// firmware makes a TDVF binary of three pages: a measured section over the
// last two and one without contents.
func firmware(t testing.TB) []byte {
	t.Helper()
	const size = 3 * tdvf.PageSize
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * 7)
	}
	le := binary.LittleEndian
	footer, err := tdvf.ParseGUID("96b582de-1fb2-45f7-baea-a366c55a082d")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := tdvf.ParseGUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
	if err != nil {
		t.Fatal(err)
	}
	at := size - 32 - 18
	copy(b[at+2:], footer[:])
	le.PutUint16(b[at:], 18+22)
	copy(b[at-16:], entry[:])
	le.PutUint16(b[at-18:], 22)
	le.PutUint32(b[at-22:], 1000)
	d := b[size-1000:]
	copy(d, "TDVF")
	for i, v := range []uint32{16 + 2*32, 1, 2,
		tdvf.PageSize, 2 * tdvf.PageSize, 0xffffe000, 0, 2 * tdvf.PageSize, 0, tdvf.BFV, tdvf.AttrExtend,
		0, 0, 0x809000, 0, 2 * tdvf.PageSize, 0, tdvf.TDHOB, 0} {
		le.PutUint32(d[4+4*i:], v)
	}
	return b
}

func measure(t testing.TB, b []byte) (Values, error) {
	t.Helper()
	f, err := tdvf.Parse(b)
	if err != nil {
		return Values{}, err
	}
	return Measure(f)
}

// TestEveryMeasuredByteReachesMRTD changes one byte at a time; what is not in
// a measured section must not count.
func TestEveryMeasuredByteReachesMRTD(t *testing.T) {
	good := firmware(t)
	want, err := measure(t, good)
	if err != nil {
		t.Fatal(err)
	}
	if want.SinglePass == want.TwoPass {
		t.Error("the two orders give the same value")
	}
	for i := range good {
		bad := append([]byte{}, good...)
		bad[i] ^= 1
		got, err := measure(t, bad)
		if err != nil {
			continue // the description itself was changed
		}
		measured := i >= tdvf.PageSize
		if (got.SinglePass != want.SinglePass) != measured || (got.TwoPass != want.TwoPass) != measured {
			t.Errorf("byte %#x: changed values %t, measured %t", i, got != want, measured)
		}
	}
}

func TestTheOrderIsLookedUp(t *testing.T) {
	v, err := measure(t, firmware(t))
	if err != nil {
		t.Fatal(err)
	}
	for order, want := range map[Order]any{SinglePass: v.SinglePass, TwoPass: v.TwoPass} {
		if got, err := v.Of(order); err != nil || got != want {
			t.Errorf("%s is %s: %v", order, got, err)
		}
	}
	if _, err := v.Of("other"); err == nil {
		t.Error("an unknown order has a value")
	}
	if _, err := measure(t, make([]byte, tdvf.PageSize)); !errors.Is(err, tdvf.ErrAbsent) {
		t.Errorf("a firmware without a descriptor: %v", err)
	}
}
