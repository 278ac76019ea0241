// Package bootargs writes and reads the kernel command line of the
// confidential VM: which root file system to accept.
//
// The command line is measured (PCR 9, RTMR2), so what it names is what a
// verifier saw. The form is this project's own; the kernel's parameters
// beside it are ignored here, unknown or repeated ones of ours are refused.
package bootargs

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"cocoon/measurements/verity"
)

// MaxLength bounds a command line; the kernel's own limit on x86 is 2048.
const MaxLength = 2048

// Parameters of ours.
const (
	prefix    = "cocoon."
	keyRoot   = "cocoon.root"
	keySalt   = "cocoon.salt"
	keyBlocks = "cocoon.blocks"
	keyDebug  = "cocoon.debug" // without a value
)

// Kernel parameters that every image is started with: console on the serial
// port, errors only, a reboot request instead of a hang after a panic; the
// kernel closed to its own root user (kernel_lockdown(7)) from the first
// instruction on, only modules with the kernel's signature; no debugfs, no
// vsyscall page, no caches of one size shared between kinds of objects. Two
// save time: the crypto library's known-answer tests, which look for faults of
// the code or the processor, are left out, and so is the search for a broken
// timer interrupt, as the kernel itself does under KVM; on a busy host that
// search fails and panics where emulation lets the timer come late. The
// supervisor reads back what is in force before it records the latch.
const kernelArgs = "console=ttyS0 quiet panic=-1 oops=panic lockdown=confidentiality module.sig_enforce=1 debugfs=off vsyscall=none slab_nomerge cryptomgr.notests=1 no_timer_check"

// Root names the root file system by its dm-verity parameters.
type Root struct {
	Hash   [verity.HashSize]byte // root of the hash tree
	Salt   []byte                // 1 to verity.MaxSalt bytes
	Blocks uint64                // data blocks of verity.BlockSize bytes
	Debug  bool                  // a debug image: it talks more, and production refuses it
}

// String returns the whole command line for r.
func (r Root) String() string {
	args := kernelArgs
	if r.Debug {
		args = strings.Replace(args, " quiet ", " loglevel=7 ", 1) + " " + keyDebug
	}
	return fmt.Sprintf("%s %s=%x %s=%x %s=%d", args, keyRoot, r.Hash, keySalt, r.Salt, keyBlocks, r.Blocks)
}

// Parse reads a command line as the kernel shows it in /proc/cmdline.
func Parse(line string) (Root, error) {
	if len(line) > MaxLength {
		return Root{}, fmt.Errorf("command line of %d bytes: want at most %d", len(line), MaxLength)
	}
	vals := make(map[string]string)
	for _, word := range strings.Fields(line) {
		key, val, valued := strings.Cut(word, "=")
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		switch key {
		case keyRoot, keySalt, keyBlocks:
		case keyDebug:
			if valued {
				return Root{}, fmt.Errorf("parameter %s has a value", key)
			}
		default:
			return Root{}, fmt.Errorf("unknown parameter %q", key)
		}
		if _, dup := vals[key]; dup {
			return Root{}, fmt.Errorf("parameter %s is given twice", key)
		}
		vals[key] = val
	}
	for _, key := range []string{keyRoot, keySalt, keyBlocks} {
		if _, ok := vals[key]; !ok {
			return Root{}, fmt.Errorf("parameter %s is missing", key)
		}
	}
	var r Root
	_, r.Debug = vals[keyDebug]
	hash, err := lowerHex(vals[keyRoot])
	if err != nil || len(hash) != len(r.Hash) {
		return Root{}, fmt.Errorf("%s is not %d bytes of lower-case hex", keyRoot, len(r.Hash))
	}
	copy(r.Hash[:], hash)
	if r.Salt, err = lowerHex(vals[keySalt]); err != nil || len(r.Salt) == 0 || len(r.Salt) > verity.MaxSalt {
		return Root{}, fmt.Errorf("%s is not 1 to %d bytes of lower-case hex", keySalt, verity.MaxSalt)
	}
	r.Blocks, err = strconv.ParseUint(vals[keyBlocks], 10, 64)
	if err != nil || r.Blocks == 0 || r.Blocks > verity.MaxDataBlocks || strconv.FormatUint(r.Blocks, 10) != vals[keyBlocks] {
		return Root{}, fmt.Errorf("%s is not a plain number from 1 to %d", keyBlocks, uint64(verity.MaxDataBlocks))
	}
	return r, nil
}

func lowerHex(s string) ([]byte, error) {
	if s != strings.ToLower(s) {
		return nil, hex.InvalidByteError('A')
	}
	return hex.DecodeString(s)
}
