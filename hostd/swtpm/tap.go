package swtpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"
)

// cmdSetDataFD is swtpm's control command that hands over the channel for TPM
// commands as an SCM_RIGHTS descriptor (swtpm's tpm_ioctl.h, CMD_SET_DATAFD).
const cmdSetDataFD = 0x10

// Tap watches all that a VM says to its TPM, from the host's side.
type Tap struct {
	// On is called after each command with its response, before the VM gets
	// that response. It may send commands of its own.
	On func(cmd, resp []byte, tpm transport.TPM)

	wg sync.WaitGroup
}

// Interpose takes swtpm's control channel and returns the one for QEMU. It
// ends when either side closes.
func (t *Tap) Interpose(ctrl *os.File) (*os.File, error) {
	swtpm, err := unixConn(ctrl)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := SocketPair()
	if err != nil {
		swtpm.Close()
		return nil, err
	}
	qemu, err := unixConn(ours)
	if err != nil {
		swtpm.Close()
		theirs.Close()
		return nil, err
	}
	t.wg.Add(2)
	closeBoth := func() { swtpm.Close(); qemu.Close() }
	go func() {
		defer t.wg.Done()
		defer closeBoth()
		t.control(qemu, swtpm)
	}()
	go func() {
		defer t.wg.Done()
		defer closeBoth()
		buf := make([]byte, maxPacket)
		for {
			n, err := swtpm.Read(buf)
			if err != nil {
				return
			}
			if _, err := qemu.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	return theirs, nil
}

// Wait returns once all channels have ended.
func (t *Tap) Wait() { t.wg.Wait() }

// control passes QEMU's control commands on, and keeps the data channel.
func (t *Tap) control(qemu, swtpm *net.UnixConn) {
	buf, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := qemu.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			return
		}
		var pass []byte
		var given *os.File
		if oobn > 0 && n >= 4 && binary.BigEndian.Uint32(buf) == cmdSetDataFD {
			if given, pass, err = t.data(oob[:oobn]); err != nil {
				return
			}
		}
		_, _, err = swtpm.WriteMsgUnix(buf[:n], pass, nil)
		if given != nil {
			given.Close()
		}
		if err != nil {
			return
		}
	}
}

// data opens the channel that QEMU hands over and returns the one that swtpm
// gets instead, with the message that carries it.
func (t *Tap) data(oob []byte) (*os.File, []byte, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return nil, nil, errors.New("malformed control message")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, nil, errors.New("malformed control message")
	}
	unix.CloseOnExec(fds[0])
	vm, err := unixConn(os.NewFile(uintptr(fds[0]), "tpm-data"))
	if err != nil {
		return nil, nil, err
	}
	ours, theirs, err := SocketPair()
	if err != nil {
		vm.Close()
		return nil, nil, err
	}
	tpm, err := unixConn(ours)
	if err != nil {
		vm.Close()
		theirs.Close()
		return nil, nil, err
	}
	t.wg.Add(1)
	go func() {
		defer t.wg.Done()
		defer vm.Close()
		defer tpm.Close()
		ch := Channel{tpm}
		for {
			cmd, err := ReadPacket(vm)
			if err != nil {
				return
			}
			resp, err := ch.Send(cmd)
			if err != nil {
				return
			}
			t.On(cmd, resp, ch)
			if _, err := vm.Write(resp); err != nil {
				return
			}
		}
	}()
	return theirs, unix.UnixRights(int(theirs.Fd())), nil
}

// unixConn turns a socket into a connection and closes the file.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("opening TPM channel: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("opening TPM channel: not a UNIX socket")
	}
	return u, nil
}
