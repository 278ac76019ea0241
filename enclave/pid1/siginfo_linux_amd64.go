package pid1

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfoPID returns si_pid of a SIGCHLD siginfo. x/sys keeps the union
// opaque; on 64-bit Linux si_pid is the int at offset 16 (siginfo.h:
// si_signo, si_errno, si_code, padding, then the union).
func siginfoPID(info *unix.Siginfo) int {
	b := (*[unsafe.Sizeof(*info)]byte)(unsafe.Pointer(info))
	return int(int32(binary.LittleEndian.Uint32(b[16:20])))
}
