package eventlog

import (
	"encoding/hex"
	"os"
	"testing"
)

// TestARealBootReplaysToItsRegisters replays the log of a direct boot to what
// the TPM held (testdata/README.md).
func TestARealBootReplaysToItsRegisters(t *testing.T) {
	b, err := os.ReadFile("testdata/direct-boot.eventlog.bin")
	if err != nil {
		t.Fatal(err)
	}
	l, err := ParseTPM(b)
	if err != nil {
		t.Fatal(err)
	}
	regs, err := l.Replay(SHA256)
	if err != nil {
		t.Fatal(err)
	}
	const separator = "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"
	want := map[int]string{
		0: "c52ccebcb2f9e66ae492acf8a1d80ff26df1176c9fc52cb53bf08ffbb838069b",
		1: "ff18e07d7814793112e1503a6a3f8f00a389e37c934a4d724a02e5a471a0edfb",
		2: separator, 3: separator, 6: separator,
		4: "4ad91debfe56f7cbf8986a6eb1f939f270b4d40cc1ab28cebbe3d3bf12aa73c8",
		5: "a5ceb755d043f32431d63e39f5161464620a3437280494b5850dc1b47cc074e0",
		7: "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439",
		9: "e1b32fea5c2ba3d9d54d3ff6c42fd1d809e75bbccda3ac8092c979ef00e9306d",
	}
	if len(regs) != len(want) {
		t.Errorf("%d registers, want %d", len(regs), len(want))
	}
	for n, v := range want {
		if got := hex.EncodeToString(regs[n]); got != v {
			t.Errorf("PCR %d is %s, the TPM held %s", n, got, v)
		}
	}
}
