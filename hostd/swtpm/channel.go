package swtpm

import (
	"encoding/binary"
	"fmt"
	"io"
)

// maxPacket bounds one command or response; swtpm's own buffer has 4096
// bytes.
const maxPacket = 8192

// headerSize is tag (2), size (4), command or response code (4), big-endian
// (TPM 2.0 Library, Part 1, section 18).
const headerSize = 10

// ReadPacket reads one TPM command or response from a byte stream.
func ReadPacket(r io.Reader) ([]byte, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(h[2:])
	if n < headerSize || n > maxPacket {
		return nil, fmt.Errorf("TPM packet of %d bytes", n)
	}
	b := make([]byte, n)
	copy(b, h[:])
	if _, err := io.ReadFull(r, b[headerSize:]); err != nil {
		return nil, fmt.Errorf("reading TPM packet: %w", err)
	}
	return b, nil
}

// Channel sends commands over a byte stream; it is a go-tpm transport.
type Channel struct{ RW io.ReadWriter }

// Send runs one command.
func (c Channel) Send(cmd []byte) ([]byte, error) {
	if _, err := c.RW.Write(cmd); err != nil {
		return nil, fmt.Errorf("sending TPM command: %w", err)
	}
	b, err := ReadPacket(c.RW)
	if err != nil {
		return nil, fmt.Errorf("reading TPM response: %w", err)
	}
	return b, nil
}
