package pid1

import (
	"context"
	"encoding/binary"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// PowerButton returns the input device (such as event0) of the ACPI power
// button, by which a host asks the guest to stop. sys is os.DirFS("/sys").
func PowerButton(sys fs.FS) (string, error) {
	entries, err := fs.ReadDir(sys, "class/input")
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "event") {
			continue
		}
		b, err := fs.ReadFile(sys, path.Join("class/input", e.Name(), "device/name"))
		if err == nil && strings.TrimSpace(string(b)) == "Power Button" {
			return e.Name(), nil
		}
	}
	return "", ErrNoDevice
}

// input_event of linux/input.h on 64-bit: 16 bytes of time, then type, code
// (16 bits each) and value (32 bits).
const (
	inputEventSize = 24
	evKey          = 1
	keyPower       = 116
)

// awaitButton returns true when the button is pressed, false when r ends.
func awaitButton(r io.Reader) bool {
	var ev [inputEventSize]byte
	for {
		if _, err := io.ReadFull(r, ev[:]); err != nil {
			return false
		}
		typ, code := binary.LittleEndian.Uint16(ev[16:]), binary.LittleEndian.Uint16(ev[18:])
		if typ == evKey && code == keyPower && binary.LittleEndian.Uint32(ev[20:]) == 1 {
			return true
		}
	}
}

// WatchButton calls pressed once when the power button is pressed. A machine
// without a button is stopped by other means.
func WatchButton(ctx context.Context, pressed func()) {
	name, err := PowerButton(os.DirFS("/sys"))
	if err != nil {
		return
	}
	f, err := os.Open("/dev/input/" + name)
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	go func() {
		defer f.Close()
		if awaitButton(f) && stop() {
			pressed()
		}
	}()
}
